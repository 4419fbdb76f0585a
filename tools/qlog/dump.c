/*
 * dump.c: `qlog dump`: a log's records, or a view made from them, one per line.
 */
#include <inttypes.h>

#include <qbase/text.h>

#include "command.h"
#include "view.h"

static enum q_err open_log(
    const char *directory, const char *log, const struct view *view, struct qlog_cursor **ret);
static enum q_err print_all(
    struct viewer *viewer, const struct view *view, struct qlog_cursor *cursor, bool *ret_damaged);

enum tool_exit
dump_run(const struct command *command, int argc, char **argv)
{
    const char *log = NULL;
    const char *format = "text";
    const struct q_opt options[] = {
        { "log", 0, Q_OPT_TEXT, &log, "LOG",
          "message, action, consume, pull, or a name of its own (the first)", 0, 0 },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 2, &format, argc, argv, &line, &code)) return code;

    const struct view *view = view_find(log);
    struct qlog_cursor *cursor;
    enum q_err err = open_log(line.directory, log, view, &cursor);
    if (err != Q_OK) return report(err, line.json);
    struct viewer viewer = { .json = line.json };
    bool damaged = false;
    err = print_all(&viewer, view, cursor, &damaged);
    if (err == Q_OK) print_end(cursor);
    viewer_fini(&viewer);
    qlog_cursor_close(cursor);
    if (err != Q_OK) return report(err, line.json);
    return damaged ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK;
}

static enum q_err
open_log(const char *directory, const char *log, const struct view *view, struct qlog_cursor **ret)
{
    const char *wanted = view->log == NULL ? log : view->log;
    enum q_err err = qlog_cursor_open(directory, wanted, (qlog_position){ 0 }, ret);
    if (err != Q_NOT_FOUND || wanted == NULL) return err;
    char hint[Q_FAULT_TEXT_MAX] = "--log with one of:";
    char name[16];
    for (unsigned i = 0; qlog_log_name(directory, i, name) == Q_OK; i++) {
        size_t used = strlen(hint);
        (void)snprintf(hint + used, sizeof(hint) - used, " %s", name);
    }
    return Q_FAIL(
        Q_NOT_FOUND, .path = directory, .what = q_text("there is no log \"%s\"", wanted),
        .hint = hint);
}

static enum q_err
print_all(
    struct viewer *viewer, const struct view *view, struct qlog_cursor *cursor, bool *ret_damaged)
{
    struct qlog_record record;
    struct qlog_damage damage;
    for (;;) {
        enum q_err err = qlog_cursor_next(cursor, &record, &damage);
        if (err == Q_END) return Q_OK;
        if (err == Q_E_CORRUPT) {
            print_damage(viewer->json, &damage);
            *ret_damaged = true;
            continue;
        }
        if (err != Q_OK) return err;
        err = view->print(viewer, &record);
        if (err == Q_E_CORRUPT || err == Q_E_VERSION) {
            char text[Q_FAULT_LINE_MAX];
            (void)fprintf(stderr, "qlog: %s\n", q_fault_format(q_fault_last(), text, sizeof(text)));
            *ret_damaged = true;
        } else if (err != Q_OK) {
            return err;
        }
    }
}
