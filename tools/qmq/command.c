/*
 * command.c: what the commands share.
 */
#include "command.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define META_DEFAULT "tcp://127.0.0.1:20880"

enum {
    CONNECT_TIMEOUT_MS = 5 * 1000
};

bool
command_parse(
    const struct command *command,
    const struct q_opt *options,
    size_t option_count,
    unsigned args_min,
    unsigned args_max,
    int argc,
    char **argv,
    struct q_opts_result *ret_result,
    int *ret_exit)
{
    if (q_opts_parse(options, option_count, argc, argv, ret_result) != Q_OK) {
        *ret_exit = usage_error(command, "%s", ret_result->error);
        return false;
    }
    if (ret_result->help) {
        command_print_help(stdout, command, options, option_count);
        *ret_exit = EXIT_OK;
        return false;
    }
    if (ret_result->arg_count < args_min) {
        int word = (int)strcspn(command->args, " ");
        *ret_exit = usage_error(command, "%.*s is missing", word, command->args);
        return false;
    }
    if (ret_result->arg_count > args_max) {
        *ret_exit = usage_error(command, "unexpected argument '%s'", ret_result->args[args_max]);
        return false;
    }
    return true;
}

void
command_print_help(
    FILE *out, const struct command *command, const struct q_opt *options, size_t option_count)
{
    (void)fprintf(
        out, "qmq %s: %s\n\nusage: qmq %s%s%s%s\n", command->name, command->what, command->name,
        *command->args ? " " : "", command->args, option_count ? " [OPTIONS]" : "");
    if (command->more) (void)fprintf(out, "\n%s\n", command->more);
    if (option_count) {
        (void)fprintf(out, "\n");
        q_opts_print_help(out, options, option_count);
    }
}

int
usage_error(const struct command *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "qmq %s: ", command->name);
    (void)vfprintf(stderr, format, args);
    (void)fprintf(stderr, "\n  try: qmq help %s\n", command->name);
    va_end(args);
    return EXIT_USAGE;
}

const char *
meta_default(void)
{
    const char *meta = getenv("QMQ_META");
    return meta && *meta ? meta : META_DEFAULT;
}

struct qmq_client *
connect_to(const char *meta, int *ret_exit)
{
    struct qmq_client_options options = {
        .meta = meta,
        .program = q_text("qmq %s", qmq_version()),
        .timeout_ms = CONNECT_TIMEOUT_MS,
    };
    struct qmq_client *client;
    int code = qmq_connect(&options, &client);
    if (code == QMQ_OK) return client;

    if (code == QMQ_UNAVAILABLE)
        (void)Q_FAIL(
            Q_UNAVAILABLE,
            .what = q_text("%s: no answer within %d s", meta, CONNECT_TIMEOUT_MS / 1000),
            .hint = "qmq dev, which starts a node here; or --meta, which names another");
    *ret_exit = report_error("reach meta");
    return NULL;
}

int
report_error(const char *format, ...)
{
    struct qmq_error error = qmq_last_error();
    const char *headline = q_err_message((enum q_err)error.code);

    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "qmq: cannot ");
    (void)vfprintf(stderr, format, args);
    (void)fprintf(stderr, ": %s  [QMQ-%d %s]\n", headline, error.code, error.name);
    va_end(args);
    const char *facts = error.message;
    if (strncmp(facts, headline, strlen(headline)) == 0) {
        /* A fault without words of its own begins with the headline. */
        facts += strlen(headline);
        facts += strspn(facts, ": ");
    }
    if (*facts) (void)fprintf(stderr, "  %s\n", facts);
    if (*error.hint) (void)fprintf(stderr, "  try: %s\n", error.hint);
    return exit_code_of(error.code);
}

int
exit_code_of(int code)
{
    static const struct {
        enum q_err err;
        enum exit_code exit;
    } rows[] = {
        { Q_OK, EXIT_OK },
        { Q_INVALID, EXIT_USAGE },
        { Q_TOO_BIG, EXIT_USAGE },
        { Q_NOT_FOUND, EXIT_NOT_FOUND },
        { Q_EXISTS, EXIT_CONFLICT },
        { Q_CONFLICT, EXIT_CONFLICT },
        { Q_CONSUMER_REPLACED, EXIT_CONFLICT },
        { Q_FILTER_DIFFERS, EXIT_CONFLICT },
        { Q_READ_ONLY, EXIT_DENIED },
        { Q_E_PERMISSION, EXIT_DENIED },
        { Q_BUSY, EXIT_UNAVAILABLE },
        { Q_NO_ROUTE, EXIT_UNAVAILABLE },
        { Q_TIMED_OUT, EXIT_UNAVAILABLE },
        { Q_UNAVAILABLE, EXIT_UNAVAILABLE },
        { Q_STOPPING, EXIT_UNAVAILABLE },
        { Q_E_CONNECTION, EXIT_UNAVAILABLE },
        { Q_E_CORRUPT, EXIT_CORRUPT },
    };
    for (size_t index = 0; index < sizeof(rows) / sizeof(rows[0]); index++)
        if ((int)rows[index].err == code) return rows[index].exit;
    return EXIT_FAILED;
}
