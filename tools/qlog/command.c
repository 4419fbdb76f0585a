/*
 * command.c: what the commands share.
 */
#include "command.h"

#include <inttypes.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbase/text.h>

static void print_help(
    const struct command *command, const struct q_opt *options, size_t option_count);
static const char *argument_mistake(
    const struct command *command, const struct q_opts_result *result);
static enum q_err find_directory(const struct command *command, const char *given, char *out);
static enum tool_exit exit_of(enum q_err err);

bool
command_parse(
    const struct command *command,
    const struct q_opt *options,
    size_t option_count,
    const char *const *format,
    int argc,
    char **argv,
    struct command_line *ret_line,
    enum tool_exit *ret_exit)
{
    struct q_opts_result result;
    if (q_opts_parse(options, option_count, argc, argv, &result) != Q_OK) {
        *ret_exit = usage_error(command, result.error);
        return false;
    }
    if (result.help) {
        print_help(command, options, option_count);
        *ret_exit = TOOL_EXIT_OK;
        return false;
    }
    ret_line->json = strcmp(*format, "json") == 0;
    const char *mistake = NULL;
    if (!ret_line->json && strcmp(*format, "text") != 0)
        mistake = q_text("-o: there is no format '%s', only json and text", *format);
    else
        mistake = argument_mistake(command, &result);
    if (mistake != NULL) {
        *ret_exit = usage_error(command, mistake);
        return false;
    }
    for (unsigned i = 1; i < result.arg_count; i++)
        ret_line->arguments[i - 1] = result.args[i];
    enum q_err err = find_directory(command, result.args[0], ret_line->directory);
    if (err == Q_OK) return true;
    *ret_exit = report(err, ret_line->json);
    return false;
}

static const char *
argument_mistake(const struct command *command, const struct q_opts_result *result)
{
    const char *word = command->arguments;
    for (unsigned i = 0; i < result->arg_count; i++) {
        word += strspn(word, " ");
        if (*word == '\0') return q_text("'%s' is too many", result->args[i]);
        word += strcspn(word, " ");
    }
    word += strspn(word, " ");
    if (*word == '\0') return NULL;
    if (result->arg_count == 0) return "which directory?";
    return q_text("%.*s is missing", (int)strcspn(word, " "), word);
}

enum tool_exit
usage_error(const struct command *command, const char *text)
{
    (void)fprintf(
        stderr, "qlog %s: %s\n  try: qlog %s --help\n", command->name, text, command->name);
    return TOOL_EXIT_USAGE;
}

static void
print_help(const struct command *command, const struct q_opt *options, size_t option_count)
{
    (void)printf(
        "qlog %s: %s\n\nusage: qlog %s %s [OPTIONS]\n\n%s\n\n", command->name, command->what,
        command->name, command->arguments, command->more);
    q_opts_print_help(stdout, options, option_count);
    (void)printf("\nexample:\n  %s\n", command->example);
}

/* A store or log is taken as it is; of a node's directory, the broker's store in it. */
static enum q_err
find_directory(const struct command *command, const char *given, char *out)
{
    static const char *const insides[] = { "", "/broker" };
    char name[16];
    enum q_err first_err = Q_OK;
    struct q_fault first = { 0 };
    for (size_t i = 0; i < sizeof(insides) / sizeof(insides[0]); i++) {
        int size = snprintf(out, DIRECTORY_MAX, "%s%s", given, insides[i]);
        if (size >= DIRECTORY_MAX) return Q_FAIL(Q_INVALID, .what = "the path is too long");
        enum q_err err = qlog_log_name(out, 0, name);
        if (err == Q_E_CORRUPT && command->opens_all) return Q_OK;
        if (err == Q_OK) return Q_OK;
        if (err == Q_END) err = Q_FAIL(Q_NOT_FOUND, .path = out, .what = "there is no log in it");
        if (i == 0) {
            first_err = err;
            first = *q_fault_last();
            if (err != Q_E_FOREIGN) break;
        } else if (err != Q_NOT_FOUND) {
            return err;
        }
    }
    q_fault_adopt(&first);
    return first_err;
}

enum tool_exit
report(enum q_err err, bool json)
{
    char text[Q_FAULT_LINE_MAX];
    const struct q_fault *fault = q_fault_last();
    q_fault_format(fault, text, sizeof(text));
    const char *hint = fault->hint[0] == '\0' ? q_err_hint(err) : fault->hint;
    if (json) {
        (void)printf("{\"error\":{\"code\":%d,\"name\":\"%s\",\"message\":", err, q_err_name(err));
        q_text_write_json(stdout, q_bytes_from_text(text));
        (void)printf(",\"hint\":");
        q_text_write_json(stdout, q_bytes_from_text(hint));
        (void)printf(",\"retryable\":%s}}\n", q_err_retryable(err) ? "true" : "false");
    } else {
        (void)fprintf(stderr, "qlog: %s  [%s]\n", text, q_err_name(err));
        if (hint[0] != '\0') (void)fprintf(stderr, "  try: %s\n", hint);
    }
    return exit_of(err);
}

static enum tool_exit
exit_of(enum q_err err)
{
    switch (err) {
    case Q_INVALID:
        return TOOL_EXIT_USAGE;
    case Q_NOT_FOUND:
        return TOOL_EXIT_NOT_FOUND;
    case Q_E_PERMISSION:
        return TOOL_EXIT_DENIED;
    case Q_E_CORRUPT:
        return TOOL_EXIT_CORRUPT;
    case Q_E_LOCKED:
        return TOOL_EXIT_LOCKED;
    default:
        return TOOL_EXIT_FAILED;
    }
}

void
print_name(FILE *out, struct q_bytes name)
{
    for (size_t i = 0; i < name.size; i++) {
        /* Bytes above are those of UTF-8. */
        if (name.data[i] < 0x20 || name.data[i] == 0x7f)
            (void)fprintf(out, "\\x%02x", name.data[i]);
        else
            (void)fputc(name.data[i], out);
    }
}

void
print_damage(bool json, const struct qlog_damage *damage)
{
    if (json)
        (void)printf(
            "{\"damage\":\"%s\",\"from\":%" PRIu64 ",\"to\":%" PRIu64 "}\n", damage->what,
            damage->from, damage->to);
    else
        (void)printf(
            "damage: %s, positions %" PRIu64 " to %" PRIu64 "\n", damage->what, damage->from,
            damage->to);
}

void
print_end(const struct qlog_cursor *cursor)
{
    struct qlog_log_state state;
    qlog_cursor_state(cursor, &state);
    if (state.live)
        (void)fprintf(
            stderr, "qlog: the directory is in use; read up to its durable mark %" PRIu64 "\n",
            state.durable);
    if (state.torn_bytes > 0)
        (void)fprintf(
            stderr, "qlog: torn tail: %" PRIu64 " bytes behind %" PRIu64 " are unfinished\n",
            state.torn_bytes, state.end);
}

uint64_t
now_ms(void)
{
    return q_clock_wall_ms(q_clock_system());
}
