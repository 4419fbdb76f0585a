/*
 * cat.c: `qlog cat`: the bodies of a subject's messages.
 */
#include <stdio.h>

#include <qbase/text.h>

#include "messages.h"

static enum q_err print_all(struct messages *messages, bool json, bool raw, bool *ret_damaged);

enum tool_exit
cat_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    bool raw = false;
    struct message_options wanted = { .to = UINT64_MAX };
    const struct q_opt options[] = {
        MESSAGE_OPTIONS(wanted),
        { "raw", 0, Q_OPT_FLAG, &raw, NULL, "bodies alone, with nothing between them", 0, 0 },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(
            command, options, MESSAGE_OPTION_COUNT + 2, &format, argc, argv, &line, &code))
        return code;
    if (raw && line.json) return usage_error(command, "--raw and -o json exclude each other");

    struct messages messages;
    enum q_err err = messages_open(&messages, line.directory, line.arguments[0], &wanted);
    bool damaged = false;
    if (err == Q_OK) err = print_all(&messages, line.json, raw, &damaged);
    if (err == Q_OK && !messages.subject_met && !damaged)
        err = Q_FAIL(
            Q_NOT_FOUND, .path = line.directory,
            .what = q_text("no message of a subject \"%s\" is stored here", line.arguments[0]),
            .hint = "qlog ls DIR lists the subjects that there are");
    if (err == Q_OK) print_end(messages.cursor);
    code = err == Q_OK ? (damaged ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK) : report(err, line.json);
    messages_close(&messages);
    return code;
}

static enum q_err
print_all(struct messages *messages, bool json, bool raw, bool *ret_damaged)
{
    for (;;) {
        struct message message;
        struct qlog_damage damage;
        enum q_err err = messages_next(messages, &message, &damage);
        if (err == Q_END) return Q_OK;
        if (err == Q_E_CORRUPT) {
            *ret_damaged = true;
            /* Bodies are for other programs: what is no body goes beside them. */
            if (json)
                print_damage(true, &damage);
            else
                (void)fprintf(
                    stderr, "qlog: damage: %s, positions %llu to %llu\n", damage.what,
                    (unsigned long long)damage.from, (unsigned long long)damage.to);
            continue;
        }
        if (err != Q_OK) return err;
        if (json)
            message_print_json(&message, true);
        else
            (void)fwrite(message.view.body.data, 1, message.view.body.size, stdout);
        if (!raw) (void)putchar('\n');
        if (ferror(stdout)) return Q_OK; /* main() says it */
    }
}
