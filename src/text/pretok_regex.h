/*
 * pretok_regex.h - a pre-tokenizer's regex, from Hugging Face's dialect to PCRE2's.
 *
 * Place: text. tokenizer.json means its regexes for Oniguruma with the Unicode 16.0 tables. What
 * PCRE2 reads the same way is copied, \s and \p{..} are spelled out so that both name the same code
 * points, and every construct on which the two could differ is refused. What is accepted: literals,
 * groups ( (?: (?= (?!, alternation, the quantifiers ? * + and {m,n}, classes without nesting, the
 * escapes \r \n \t \s \S, \p and \P of L, M, N, P, S, Z, and escaped ASCII punctuation.
 */
#ifndef DSV4_TEXT_PRETOK_REGEX_H
#define DSV4_TEXT_PRETOK_REGEX_H

#include "dsv4/base.h"
#include "text/text_buffer.h"

/*
 * Appends the PCRE2 form of regex, which is valid UTF-8; UNSUPPORTED names path, construct and
 * place.
 */
dsv4_status dsv4_pretok_translate(const char *path, const char *regex, size_t len_bytes,
                                  dsv4_text_buffer *pcre2_regex, dsv4_error *error);

#endif
