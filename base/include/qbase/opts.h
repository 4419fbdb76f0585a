/*
 * qbase/opts.h: one table of options makes the parser, the help text and the suggestions.
 *
 * A program declares its options as an array; q_opts_parse() fills the variables they point to and
 * collects the positional arguments. Long options are kebab-case: --port-base 20880 or
 * --port-base=20880; short ones one letter: -n 5 or -n5. Options may stand anywhere; `--` ends
 * them.
 *
 * Thread:   the main thread.
 * Memory:   values point into argv; lists are arrays of the caller's.
 * Failure:  Q_INVALID; `error` holds one line that names the option, the cause and, for an unknown
 *           option, the nearest one.
 */
#ifndef QBASE_OPTS_H
#define QBASE_OPTS_H

#include <stdio.h>

#include <qbase/err.h>

enum q_opt_kind {
    Q_OPT_FLAG,     /* bool * */
    Q_OPT_TEXT,     /* const char ** */
    Q_OPT_NUMBER,   /* uint64_t * */
    Q_OPT_SIZE,     /* uint64_t *, bytes */
    Q_OPT_DURATION, /* uint64_t *, ns */
    Q_OPT_LIST,     /* struct q_opt_list *, may be given many times */
};

enum {
    Q_OPT_LIST_MAX = 16,
    Q_OPT_ERROR_MAX = 256,
    Q_OPT_ARGS_MAX = 64
};

struct q_opt_list {
    const char *values[Q_OPT_LIST_MAX];
    unsigned count;
};

struct q_opt {
    const char *name; /* long name without dashes */
    char letter;      /* 0: none */
    enum q_opt_kind kind;
    void *value;       /* where it goes, see the kinds; holds the default before parsing */
    const char *param; /* "DIR" in the help; NULL for flags */
    const char *help;  /* one line */
    uint64_t min, max; /* for Q_OPT_NUMBER, SIZE, DURATION; max 0: no bound */
};

struct q_opts_result {
    const char *args[Q_OPT_ARGS_MAX]; /* positional */
    unsigned arg_count;
    bool help; /* --help or -h was given; nothing else is checked then */
    char error[Q_OPT_ERROR_MAX];
};

/* `argv[0]` is skipped. Q_OK or Q_INVALID. */
Q_MUST_CHECK enum q_err q_opts_parse(
    const struct q_opt *options,
    size_t option_count,
    int argc,
    char *const *argv,
    struct q_opts_result *ret_result);
/* One aligned line per option. */
void q_opts_print_help(FILE *out, const struct q_opt *options, size_t option_count);

#endif /* QBASE_OPTS_H */
