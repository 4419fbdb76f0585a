/*
 * command.h: the commands of `qmq`, and what they share: options, connecting, errors, exit codes.
 *
 * stdout is for data, stderr for everything else.
 */
#ifndef QMQ_TOOL_COMMAND_H
#define QMQ_TOOL_COMMAND_H

#include <qbase/opts.h>
#include <qmq/qmq.h>

/* QMQ_EXIT_LIST(X): X(NAME, code, meaning). Scripts act on them. */
/* clang-format off */
#define QMQ_EXIT_LIST(X) \
    X(OK,            0, "done") \
    X(FAILED,        1, "failed") \
    X(USAGE,         2, "wrong command line") \
    X(NOT_FOUND,     3, "no such thing") \
    X(CONFLICT,      4, "conflicts with what is there") \
    X(DENIED,        5, "not allowed") \
    X(UNAVAILABLE,   6, "not reachable or timed out; trying again may help") \
    X(PARTLY,        7, "partly done") \
    X(CORRUPT,       8, "damaged data") \
    X(INTERRUPTED, 130, "interrupted (128 + number of the signal)")
/* clang-format on */

enum exit_code {
#define EXIT_ENUM(name, code, meaning) EXIT_##name = (code),
    QMQ_EXIT_LIST(EXIT_ENUM)
#undef EXIT_ENUM
};

struct command {
    const char *name; /* one word or two */
    const char *args; /* of the usage line, after the options */
    const char *what; /* one line */
    const char *more; /* further lines of its help; NULL: none */
    /* argv[0] is the command's last word. Returns the exit code. */
    int (*run)(const struct command *command, int argc, char **argv);
};

int dev_run(const struct command *command, int argc, char **argv);
int pub_run(const struct command *command, int argc, char **argv);
int sub_run(const struct command *command, int argc, char **argv);
int find_run(const struct command *command, int argc, char **argv);
int group_list_run(const struct command *command, int argc, char **argv);
int group_show_run(const struct command *command, int argc, char **argv);
int group_lag_run(const struct command *command, int argc, char **argv);
int group_seek_run(const struct command *command, int argc, char **argv);
int group_skip_run(const struct command *command, int argc, char **argv);
int group_pause_run(const struct command *command, int argc, char **argv);
int group_resume_run(const struct command *command, int argc, char **argv);
int group_set_run(const struct command *command, int argc, char **argv);
int group_delete_run(const struct command *command, int argc, char **argv);
int dlq_list_run(const struct command *command, int argc, char **argv);
int dlq_resend_run(const struct command *command, int argc, char **argv);
int bench_pub_run(const struct command *command, int argc, char **argv);
int bench_sub_run(const struct command *command, int argc, char **argv);
int bench_e2e_run(const struct command *command, int argc, char **argv);
int bench_backlog_run(const struct command *command, int argc, char **argv);
int bench_fanout_run(const struct command *command, int argc, char **argv);
int bench_delay_run(const struct command *command, int argc, char **argv);
int brokers_run(const struct command *command, int argc, char **argv);
int delay_list_run(const struct command *command, int argc, char **argv);
int delay_show_run(const struct command *command, int argc, char **argv);
int delay_cancel_run(const struct command *command, int argc, char **argv);
int delay_reschedule_run(const struct command *command, int argc, char **argv);
int delay_histogram_run(const struct command *command, int argc, char **argv);
int delay_lag_run(const struct command *command, int argc, char **argv);
int version_run(const struct command *command, int argc, char **argv);
int help_run(const struct command *command, int argc, char **argv);

/*
 * Parse options and arguments. True: go on. False: `*ret_exit` is the exit code, and help or error
 * have been printed.
 */
bool command_parse(
    const struct command *command,
    const struct q_opt *options,
    size_t option_count,
    unsigned args_min,
    unsigned args_max,
    int argc,
    char **argv,
    struct q_opts_result *ret_result,
    int *ret_exit);
void command_print_help(
    FILE *out, const struct command *command, const struct q_opt *options, size_t option_count);
/* A mistake in the command line; returns EXIT_USAGE. */
int usage_error(const struct command *command, const char *format, ...) Q_PRINTF(2, 3);

/* $QMQ_META, or the local default. */
const char *meta_default(void);
/* The option of every client command. */
#define META_OPTION(variable)                                                                      \
    {                                                                                              \
        "meta", 0, Q_OPT_TEXT, &(variable), "URL",                                                 \
            "meta to ask (tcp://127.0.0.1:20880; or QMQ_META)", 0, 0                               \
    }
/* NULL after an error was printed; `*ret_exit` is its exit code. */
struct qmq_client *connect_to(const char *meta, int *ret_exit);

/* Print this thread's last error after "cannot WHAT"; returns its exit code. */
int report_error(const char *format, ...) Q_PRINTF(1, 2);
int exit_code_of(int code);

#endif /* QMQ_TOOL_COMMAND_H */
