# What the tests of the program's command line share. Sourced after $dsv4 and $work are set.
n_tests=0
n_failed=0
: >"$work/in"

# run EXPECTED_CODE ARGUMENT ...: runs the program on $work/in into $work/out and $work/err.
run() {
    expected=$1
    shift
    n_tests=$((n_tests + 1))
    last="dsv4 $*"
    "$dsv4" "$@" <"$work/in" >"$work/out" 2>"$work/err"
    code=$?
    if [ "$code" -ne "$expected" ]; then
        fail "exit code $code, expected $expected"
    fi
}

fail() {
    n_failed=$((n_failed + 1))
    echo "FAILED: $last: $1" >&2
    sed 's/^/    /' "$work/out" "$work/err" >&2
}

# out TEXT, err TEXT: the last run's output holds this text.
out() { grep -qaF -e "$1" "$work/out" || fail "standard output lacks '$1'"; }
err() { grep -qaF -e "$1" "$work/err" || fail "standard error lacks '$1'"; }
silent() { [ ! -s "$work/err" ] || fail "standard error is not empty"; }
no_output() { [ ! -s "$work/out" ] || fail "standard output is not empty"; }
