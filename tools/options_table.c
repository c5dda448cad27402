/*
 * options_table.c - what the program can be told: commands, options, and the man page's prose.
 *
 * Place: program. Constant data only. A new option is a row here and an identifier in options.h;
 * parsing, --help and the man page follow from it.
 */
#include "options.h"

#include "dsv4/attn.h"
#include "dsv4/dsv4.h"

#define BIT(command) (1u << DSV4_COMMAND_##command)
#define ATTN_ALL     (BIT(ATTN_CHECK) | BIT(ATTN_RUN) | BIT(ATTN_BENCH))
#define TALKS        (BIT(RUN) | BIT(CHAT))
#define COMPUTES     (TALKS | BIT(EVAL))
#define ANY          ((1u << DSV4_N_COMMANDS) - 1u)

static const dsv4_option_choice numerics_choices[] = {
    {"official", DSV4_MODEL_OFFICIAL},
    {"exact", DSV4_MODEL_EXACT},
    {NULL, 0},
};

static const dsv4_option_choice backend_choices[] = {
    {"auto", DSV4_BACKEND_AUTO}, {"ref", DSV4_BACKEND_REF}, {"cpu", DSV4_BACKEND_CPU},
    {"cuda", DSV4_BACKEND_CUDA}, {"hip", DSV4_BACKEND_HIP}, {NULL, 0},
};

static const dsv4_option_choice isa_choices[] = {
    {"auto", DSV4_CPU_LEVEL_AUTO},
    {"v2", DSV4_CPU_LEVEL_V2},
    {"avx2", DSV4_CPU_LEVEL_AVX2},
    {"avx512", DSV4_CPU_LEVEL_AVX512},
    {"avx512bf16", DSV4_CPU_LEVEL_AVX512BF16},
    {NULL, 0},
};

static const dsv4_option_choice math_choices[] = {
    {"auto", DSV4_ATTN_MATH_AUTO}, {"exact", DSV4_ATTN_MATH_EXACT},
    {"bf16", DSV4_ATTN_MATH_BF16}, {"official", DSV4_ATTN_MATH_OFFICIAL},
    {"fp8", DSV4_ATTN_MATH_FP8},   {NULL, 0},
};

static const dsv4_option_choice task_choices[] = {
    {"logits", DSV4_TASK_LOGITS}, {"recall", DSV4_TASK_RECALL}, {"sums", DSV4_TASK_SUMS},
    {"text", DSV4_TASK_TEXT},     {"drafts", DSV4_TASK_DRAFTS}, {NULL, 0},
};

/* Indices of dsv4_layer_shapes in layer_model.c, ratios of layers, DSV4_BENCH_PART_*; -1: all. */
static const dsv4_option_choice model_shape_choices[] = {
    {"all", -1}, {"flash", 0}, {"pro", 1}, {"tiny", 2}, {NULL, 0},
};

static const dsv4_option_choice layer_choices[] = {
    {"all", -1}, {"window", 0}, {"c4", 4}, {"c128", 128}, {NULL, 0},
};

static const dsv4_option_choice part_choices[] = {
    {"all", -1},
    {"linears", DSV4_BENCH_PART_LINEARS},
    {"layers", DSV4_BENCH_PART_LAYERS},
    {NULL, 0},
};

static const dsv4_option_choice out_dtype_choices[] = {
    {"f32", DSV4_DTYPE_F32},
    {"bf16", DSV4_DTYPE_BF16},
    {"fp8", DSV4_DTYPE_FP8},
    {NULL, 0},
};

const dsv4_command_spec dsv4_commands[DSV4_N_COMMANDS] = {
    [DSV4_COMMAND_TOP] =
        {
            .name = "",
            .is_group = true,
            .arguments = "",
            .summary = "DeepSeek-V4 in C",
            .description = "Runs DeepSeek-V4 checkpoints, and checks and measures the operations "
                           "that they spend their time in.",
        },
    [DSV4_COMMAND_ATTN] =
        {
            .name = "attn",
            .is_group = true,
            .arguments = "",
            .summary = "the sparse MLA decode attention",
            .description = "Checks, replays and measures the sparse MLA decode attention over a "
                           "paged FP8 cache.",
        },
    [DSV4_COMMAND_ATTN_CHECK] =
        {
            .name = "attn check",
            .min_arguments = 1,
            .max_arguments = INT32_MAX,
            .arguments = "FILE...",
            .summary = "compute case files and compare with the answers in them",
            .description =
                "Computes each case file and compares with the out and lse that it holds. One line "
                "per file: shape, largest absolute error, relative error (norm of the difference "
                "over norm of the expected output), cosine, largest error of lse, verdict. A file "
                "passes when the relative error is at most 2^-9, each lse is within 1e-4 + 1e-5 "
                "times its size, rows that are zero in the answer are exactly zero, lse is "
                "infinite where the answer is, no result is NaN, and nothing was written outside "
                "the results.",
        },
    [DSV4_COMMAND_ATTN_RUN] =
        {
            .name = "attn run",
            .min_arguments = 1,
            .max_arguments = 1,
            .arguments = "FILE",
            .summary = "compute a case file and write the results",
            .description = "Computes one case file, for instance a call captured from another "
                           "engine, and writes a safetensors file with out and lse. Its metadata "
                           "say which backend, kernel and arithmetic made them. An answer in the "
                           "case file is not needed and not looked at.",
        },
    [DSV4_COMMAND_ATTN_BENCH] =
        {
            .name = "attn bench",
            .arguments = "",
            .summary = "measure speed against this machine's ceilings",
            .description =
                "Measures the attention on random data and, in the same process, what bounds it on "
                "this machine: the rate of a loop of multiply-adds of the same instruction set and "
                "arithmetic, and the rate of reading memory. Lists name rows scattered over a "
                "pool, other rows on each call. Times are medians. Shapes are named "
                "hHEADS-kWINDOW[+EXTRA]-bREQUESTS, such as h64-k128+512-b8: heads 8, 16, 64, 128; "
                "keys 128, 128+512, 128+1024; requests 1, 8, 64. On a GPU (--backend cuda or hip) "
                "decodes are timed in graphs and ceilings are not measured.",
        },
    [DSV4_COMMAND_RUN] =
        {
            .name = "run",
            .arguments = "",
            .summary = "continue a text",
            .description =
                "Reads a text, begins it with the begin-of-sentence token, and prints what the "
                "model writes after it until the end-of-sentence token or the limit. Special "
                "tokens "
                "written in the text count as such. Speeds are told on standard error.",
        },
    [DSV4_COMMAND_CHAT] =
        {
            .name = "chat",
            .arguments = "",
            .summary = "talk with a model",
            .description =
                "Each line is a message; the answer follows as it is made. On a terminal lines can "
                "be edited and recalled, the model's reasoning is dimmed, Ctrl-C stops an answer, "
                "which "
                "stays as far as it came, and an error does not end the talk. /think switches "
                "reasoning on or off, /reset forgets the talk, /quit ends it.",
        },
    [DSV4_COMMAND_TOKENIZE] =
        {
            .name = "tokenize",
            .arguments = "",
            .summary = "show the tokens of a text",
            .description = "Prints one token per line: id, and its bytes in quotes. Nothing is "
                           "added at the ends; special tokens written in the text count as such. "
                           "Needs only tokenizer.json.",
        },
    [DSV4_COMMAND_INSPECT] =
        {
            .name = "inspect",
            .min_arguments = 1,
            .max_arguments = 1,
            .arguments = "DIR",
            .summary = "what a checkpoint is made of",
            .description =
                "Prints a checkpoint's architecture, its parameters and bytes by kind of tensor, "
                "and the cache bytes of a sequence: a fixed part, and what each token adds. A "
                "checkpoint that cannot be run is refused with the reason.",
        },
    [DSV4_COMMAND_EVAL] =
        {
            .name = "eval",
            .arguments = "",
            .summary = "compare a model's logits with known ones, or count its right answers",
            .description =
                "Runs the tokens of a file through a session in chunks and compares the logits of "
                "every position with those in the file: largest absolute error, cosine, share of "
                "positions with the same largest logit, share within 2e-3, mean Kullback-Leibler "
                "divergence from the file's distribution. Fails when a bound is broken or a logit "
                "is NaN or infinite. With --task, asks questions whose answers are known.",
        },
    [DSV4_COMMAND_BENCH] =
        {
            .name = "bench",
            .arguments = "",
            .summary = "measure a model, or without one the layers of Flash and Pro",
            .description =
                "With --model: tokens per second of a prompt (pp) and of generation (tg), each "
                "behind --depth tokens, mean and standard deviation over repetitions after one "
                "that does not count. Without: the big matrices and one layer of each kind of "
                "DeepSeek-V4 Flash and Pro in their exact shapes, with random weights, one new "
                "token for each sequence of a batch: time, bytes read, and their share of the "
                "memory bandwidth that is measured in the same process. Weights and caches are "
                "cold, as the other layers of a model leave them, and each token goes to random "
                "experts.",
        },
    [DSV4_COMMAND_INFO] =
        {
            .name = "info",
            .arguments = "",
            .summary = "what this build and this machine can do, and what is chosen",
            .description = "Says version, CPU level, threads, backends and devices, and which "
                           "kernel the attention picks and why.",
        },
    [DSV4_COMMAND_HELP] =
        {
            .name = "help",
            .max_arguments = 2,
            .arguments = "[COMMAND]",
            .summary = "explain a command, or print the man page",
            .description = "Prints the help of the named command, or of the program.",
        },
};

const dsv4_option_spec dsv4_options_table[DSV4_N_OPTIONS] = {
    [DSV4_OPTION_MODEL] =
        {
            .name = "model",
            .letter = 'm',
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = COMPUTES | BIT(TOKENIZE) | BIT(BENCH),
            .required = COMPUTES | BIT(TOKENIZE),
            .value_name = "DIR",
            .help = "directory of the checkpoint",
        },
    [DSV4_OPTION_PROMPT] =
        {
            .name = "prompt",
            .letter = 'p',
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(RUN) | BIT(TOKENIZE),
            .value_name = "TEXT",
            .help = "the text; without it standard input is read",
        },
    [DSV4_OPTION_TOKENS] =
        {
            .name = "tokens",
            .letter = 'n',
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = TALKS,
            .value_name = "N",
            .min = 0,
            .max = INT32_MAX,
            .help = "most tokens to generate, in chat for each answer; without it as many as fit",
        },
    [DSV4_OPTION_CONTEXT] =
        {
            .name = "context",
            .letter = 'c',
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = TALKS,
            .value_name = "N",
            .min = 1,
            .max = INT32_MAX,
            .help = "tokens that fit, prompt and answers together; without it 8192",
        },
    [DSV4_OPTION_DRAFT] =
        {
            .name = "draft",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(RUN) | BIT(BENCH),
            .help =
                "have the MTP block guess a token ahead, and keep what the model confirms: the "
                "same text in fewer steps; bench --model then has a row for greedy text made so",
        },
    [DSV4_OPTION_TEMP] =
        {
            .name = "temp",
            .letter = 't',
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = TALKS,
            .value_name = "X",
            .min = 0,
            .max = 100,
            .help = "temperature; 0 always takes the likeliest token; without it 1",
        },
    [DSV4_OPTION_TOP_K] =
        {
            .name = "top-k",
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = TALKS,
            .value_name = "N",
            .min = 0,
            .max = INT32_MAX,
            .help = "choose among the N likeliest tokens; 0 or without it among all",
        },
    [DSV4_OPTION_TOP_P] =
        {
            .name = "top-p",
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = TALKS,
            .value_name = "X",
            .min = 0,
            .max = 1,
            .help = "choose among the likeliest tokens that together have this probability",
        },
    [DSV4_OPTION_MIN_P] =
        {
            .name = "min-p",
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = TALKS,
            .value_name = "X",
            .min = 0,
            .max = 1,
            .help = "leave out tokens of less than this share of the likeliest one's probability",
        },
    [DSV4_OPTION_SEED] =
        {
            .name = "seed",
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = TALKS,
            .value_name = "N",
            .min = 0,
            .max = INT64_MAX,
            .help = "start of the random numbers; the same seed gives the same text; without it 0",
        },
    [DSV4_OPTION_THINKING] =
        {
            .name = "thinking",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(CHAT),
            .help = "let answers begin with reasoning",
        },
    [DSV4_OPTION_IDS] =
        {
            .name = "ids",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(TOKENIZE),
            .help = "print only the ids, on one line",
        },
    [DSV4_OPTION_GOLDEN] =
        {
            .name = "golden",
            .letter = 'g',
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(EVAL),
            .value_name = "FILE",
            .help = "safetensors file with tokens I32 [T] and logits F32 [T][vocabulary]",
        },
    [DSV4_OPTION_TASK] =
        {
            .name = "task",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = BIT(EVAL),
            .choices = task_choices,
            .help = "logits compares with --golden; recall asks for codes told 0 to 3000 tokens "
                    "before, sums for sums up to 20+20, as models/nano was trained to answer; text "
                    "compares perplexity with the losses F32 [n][T-1] of --golden's tokens I32 "
                    "[n][T]; drafts goes on from them with and without drafts of the MTP block",
        },
    [DSV4_OPTION_TEXT] =
        {
            .name = "text",
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(EVAL),
            .value_name = "FILE",
            .help = "with --task recall: lines that stand between; without it heldout.txt of the "
                    "model's directory",
        },
    [DSV4_OPTION_SAMPLES] =
        {
            .name = "samples",
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = BIT(EVAL),
            .value_name = "N",
            .min = 1,
            .max = 100000,
            .help = "with --task recall: texts for each range of distances; without it 20",
        },
    [DSV4_OPTION_CHAT] =
        {
            .name = "chat",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(EVAL),
            .help = "with --task recall or sums: ask in the form of a chat",
        },
    [DSV4_OPTION_MIN_RIGHT] =
        {
            .name = "min-right",
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = BIT(EVAL),
            .value_name = "X",
            .min = 0,
            .max = 1,
            .help = "with --task: smallest share of right answers, or of drafts kept, to accept",
        },
    [DSV4_OPTION_MAX_APART] =
        {
            .name = "max-apart",
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = BIT(EVAL),
            .value_name = "X",
            .min = 0,
            .max = 1,
            .help = "with --task text: largest relative difference of perplexities to accept",
        },
    [DSV4_OPTION_MTP] =
        {
            .name = "mtp",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(EVAL),
            .help = "compare the logits of the MTP block with mtp_logits F32 [T-1][vocabulary]",
        },
    [DSV4_OPTION_CHUNK] =
        {
            .name = "chunk",
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(EVAL),
            .value_name = "LIST",
            .help = "tokens per step, N or N,N,...; a list is used over and over; without it 256",
        },
    [DSV4_OPTION_MAX_ABS] =
        {
            .name = "max-abs",
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = BIT(EVAL),
            .value_name = "X",
            .min = 0,
            .max = 1000000,
            .help = "largest absolute error to accept",
        },
    [DSV4_OPTION_MIN_COSINE] =
        {
            .name = "min-cosine",
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = BIT(EVAL),
            .value_name = "X",
            .min = -1,
            .max = 1,
            .help = "smallest mean cosine to accept",
        },
    [DSV4_OPTION_MIN_AGREE] =
        {
            .name = "min-agree",
            .kind = DSV4_OPTION_KIND_REAL,
            .commands = BIT(EVAL),
            .value_name = "X",
            .min = 0,
            .max = 1,
            .help = "smallest share of positions with the same largest logit to accept",
        },
    [DSV4_OPTION_VERBOSE] =
        {
            .name = "verbose",
            .letter = 'v',
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(EVAL),
            .help = "print a line for every position",
        },
    [DSV4_OPTION_NUMERICS] =
        {
            .name = "numerics",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = COMPUTES | BIT(BENCH),
            .choices = numerics_choices,
            .help = "official rounds where DeepSeek's own code does; exact is f32 throughout",
        },
    [DSV4_OPTION_BACKEND] =
        {
            .name = "backend",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = ATTN_ALL,
            .choices = backend_choices,
            .help = "where to compute; ref is the readable scalar reference",
        },
    [DSV4_OPTION_ISA] =
        {
            .name = "isa",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = ATTN_ALL | COMPUTES | BIT(BENCH),
            .choices = isa_choices,
            .help = "CPU level to use instead of the best one of this machine",
        },
    [DSV4_OPTION_MATH] =
        {
            .name = "math",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = ATTN_ALL,
            .choices = math_choices,
            .help = "arithmetic of products: exact is f32; auto is bf16 where the hardware has it, "
                    "else exact; official rounds where DeepSeek's own code does; fp8 is faster and "
                    "rougher, on Hopper GPUs and on gfx950 alone",
        },
    [DSV4_OPTION_THREADS] =
        {
            .name = "threads",
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = ATTN_ALL | COMPUTES | BIT(BENCH),
            .value_name = "N",
            .min = 1,
            .max = 1024,
            .help = "threads to compute on; without it as many as OpenMP would use",
        },
    [DSV4_OPTION_OUTPUT] =
        {
            .name = "output",
            .letter = 'o',
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(ATTN_RUN),
            .required = BIT(ATTN_RUN),
            .value_name = "FILE",
            .help = "safetensors file to write; an existing one is replaced",
        },
    [DSV4_OPTION_OUT_DTYPE] =
        {
            .name = "out-dtype",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = BIT(ATTN_RUN),
            .choices = out_dtype_choices,
            .help = "element type of out; fp8 comes with out_scales, one for each 128 values",
        },
    [DSV4_OPTION_SHAPE] =
        {
            .name = "shape",
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(ATTN_BENCH),
            .value_name = "NAME",
            .help = "only shapes of this name: whole, the beginning of one, or a pattern with * "
                    "and ?",
        },
    [DSV4_OPTION_PP] =
        {
            .name = "pp",
            .letter = 'p',
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = BIT(BENCH),
            .value_name = "N",
            .min = 0,
            .max = 1000000,
            .help = "with --model: tokens of the prompt; 0: no such test; without it 512",
        },
    [DSV4_OPTION_TG] =
        {
            .name = "tg",
            .letter = 'n',
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = BIT(BENCH),
            .value_name = "N",
            .min = 0,
            .max = 1000000,
            .help = "with --model: tokens to generate; 0: no such test; without it 128",
        },
    [DSV4_OPTION_DEPTH] =
        {
            .name = "depth",
            .letter = 'd',
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(BENCH),
            .value_name = "LIST",
            .help = "with --model: tokens before those that are timed, N or N,N,...; without it 0",
        },
    [DSV4_OPTION_REPS] =
        {
            .name = "reps",
            .letter = 'r',
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = BIT(BENCH),
            .value_name = "N",
            .min = 1,
            .max = 1000,
            .help = "with --model: repetitions of each test; without it 5",
        },
    [DSV4_OPTION_MODEL_SHAPE] =
        {
            .name = "shape",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = BIT(BENCH),
            .choices = model_shape_choices,
            .help = "whose layers; all are flash and pro; tiny tries the benchmark itself",
        },
    [DSV4_OPTION_LAYER] =
        {
            .name = "layer",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = BIT(BENCH),
            .choices = layer_choices,
            .help = "only layers with these keys: the window alone, or compressed ones too",
        },
    [DSV4_OPTION_PART] =
        {
            .name = "part",
            .kind = DSV4_OPTION_KIND_CHOICE,
            .commands = BIT(BENCH),
            .choices = part_choices,
            .help = "only the matrices, or only the layers",
        },
    [DSV4_OPTION_BATCH] =
        {
            .name = "batch",
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(BENCH),
            .value_name = "LIST",
            .help = "sequences in a step, each with one new token, N or N,N,...; without it 1,8",
        },
    [DSV4_OPTION_LENGTHS] =
        {
            .name = "context",
            .kind = DSV4_OPTION_KIND_TEXT,
            .commands = BIT(BENCH),
            .value_name = "LIST",
            .help = "tokens before the new one, N or N,N,...; without it 4096,65536",
        },
    [DSV4_OPTION_MEMORY_LIMIT] =
        {
            .name = "memory-limit",
            .kind = DSV4_OPTION_KIND_INTEGER,
            .commands = BIT(BENCH),
            .value_name = "MIB",
            .min = 1,
            .max = 1 << 24,
            .help = "memory for weights in MiB, and once more for caches; experts that do not fit "
                    "share the memory of others; without it 3072",
        },
    [DSV4_OPTION_QUICK] =
        {
            .name = "quick",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(ATTN_BENCH) | BIT(BENCH),
            .help = "measure briefly; attn bench then takes, without --shape, only six shapes",
        },
    [DSV4_OPTION_JSON] =
        {
            .name = "json",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(ATTN_BENCH) | BIT(BENCH),
            .help = "print one JSON object per measurement and line instead of a table",
        },
    [DSV4_OPTION_MAN] =
        {
            .name = "man",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(HELP),
            .help = "print the man page of the program, in roff",
        },
    [DSV4_OPTION_VERSION] =
        {
            .name = "version",
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = BIT(TOP),
            .help = "print the version",
        },
    [DSV4_OPTION_HELP] =
        {
            .name = "help",
            .letter = 'h',
            .kind = DSV4_OPTION_KIND_FLAG,
            .commands = ANY,
            .help = "print this help",
        },
};

const dsv4_man_section dsv4_man_sections[] = {
    {
        .title = "CASE FILES",
        .text = "A case of dsv4 attn is one attention call in a safetensors file. Tensors that are "
                "not listed "
                "here are refused. A slot is block times block size plus offset; a slot that is "
                "negative or past the end names no key. A length counts the first entries of a "
                "list.",
    },
    {
        .title = NULL,
        .is_literal = true,
        .text =
            "q                   BF16  [b][s_q][h][512]\n"
            "kv                  U8    [blocks][stride_bytes]  FP8 records\n"
            "indices             I32   [b][s_q][topk]\n"
            "topk_length         I32   [b]                     optional\n"
            "extra_kv            U8    [blocks][stride_bytes]  optional second scope\n"
            "extra_indices       I32   [b][s_q][topk]          with extra_kv\n"
            "extra_topk_length   I32   [b]                     optional\n"
            "attn_sink           F32   [h]                     optional\n"
            "out                 F32   [b][s_q][h][512]        the answer; attn check needs it\n"
            "lse                 F32   [b][s_q][h]             the answer; attn check needs it\n",
    },
    {
        .title = NULL,
        .text = "Metadata, all strings: block_size, softmax_scale and, with extra_kv, "
                "extra_block_size.",
    },
    {
        .title = "EXIT STATUS",
        .is_literal = true,
        .text = "0  success\n"
                "1  a check failed, or memory ran out\n"
                "2  wrong usage, or an option asks for what this machine cannot do\n"
                "3  a file cannot be read or written, or its content is wrong\n",
    },
    {
        .title = "EXAMPLES",
        .is_literal = true,
        .text = "dsv4 run -m DeepSeek-V4-Flash -p 'The capital of France is' -n 16 --temp 0\n"
                "dsv4 chat -m DeepSeek-V4-Flash --thinking\n"
                "dsv4 eval -m checkpoint -g logits.safetensors --chunk 1,7,64 --min-cosine 0.999\n"
                "dsv4 bench -m DeepSeek-V4-Flash --depth 0,4096\n"
                "dsv4 bench --shape flash --batch 1 --context 4096\n"
                "dsv4 attn check --isa avx2 cases/*.safetensors\n"
                "dsv4 attn run captured.safetensors -o answer.safetensors\n"
                "dsv4 attn bench --shape 'h64-*-b8' --threads 8\n",
    },
};

const int32_t dsv4_n_man_sections = sizeof dsv4_man_sections / sizeof *dsv4_man_sections;
