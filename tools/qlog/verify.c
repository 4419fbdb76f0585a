/*
 * verify.c: `qlog verify`: read every log of a directory to its end, and say what is wrong with it
 * and what to do about that.
 */
#include <inttypes.h>

#include <qbase/text.h>

#include "command.h"

enum {
    LOGS_MAX = 16,
    DAMAGES_MAX = 100, /* told one by one; further ones are only counted */
    RECORD_TEXT_MAX = 16 * 1024,
    SIZE_TEXT = 32,
};

struct log_report {
    char name[16];
    struct qlog_log_state state;
    uint64_t damage_count;
    struct qlog_damage damages[DAMAGES_MAX];
};

struct report {
    struct log_report logs[LOGS_MAX];
    unsigned log_count;
    enum tool_exit result;
    bool live;
};

static enum q_err check_log(const char *directory, bool deep, struct log_report *log);
static void add_damage(struct log_report *log, const struct qlog_damage *damage);
static void add_log(struct report *report, const struct log_report *log);
static void print_log(const struct log_report *log);
static void print_result(const struct report *report);
static void print_json(const struct report *report);

enum tool_exit
verify_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    bool deep = false;
    const struct q_opt options[] = {
        { "deep", 0, Q_OPT_FLAG, &deep, NULL, "check every payload and decode every record", 0, 0 },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 2, &format, argc, argv, &line, &code)) return code;

    static struct report report_all;
    while (report_all.log_count < LOGS_MAX) {
        struct log_report *log = &report_all.logs[report_all.log_count];
        enum q_err err = qlog_log_name(line.directory, report_all.log_count, log->name);
        if (err == Q_END) break;
        if (err == Q_OK) err = check_log(line.directory, deep, log);
        if (err != Q_OK) return report(err, line.json);
        add_log(&report_all, log);
        if (!line.json) print_log(log);
    }
    if (line.json)
        print_json(&report_all);
    else
        print_result(&report_all);
    return report_all.result;
}

static enum q_err
check_log(const char *directory, bool deep, struct log_report *log)
{
    static char text[RECORD_TEXT_MAX];
    struct qlog_cursor *cursor;
    Q_TRY(qlog_cursor_open(directory, log->name, (qlog_position){ 0 }, &cursor));
    qlog_cursor_set_deep(cursor, deep);
    enum q_err err;
    for (;;) {
        struct qlog_record record;
        struct qlog_damage damage;
        err = qlog_cursor_next(cursor, &record, &damage);
        if (err == Q_E_CORRUPT)
            add_damage(log, &damage);
        else if (err != Q_OK)
            break;
        else if (deep && !qlog_record_describe(&record, true, text, sizeof(text)))
            add_damage(
                log, &(struct qlog_damage){ record.frame.value, record.frame.value,
                                            "a record that does not decode" });
    }
    qlog_cursor_state(cursor, &log->state);
    qlog_cursor_close(cursor);
    return err == Q_END ? Q_OK : err;
}

static void
add_damage(struct log_report *log, const struct qlog_damage *damage)
{
    if (log->damage_count < DAMAGES_MAX) log->damages[log->damage_count] = *damage;
    log->damage_count++;
}

static void
add_log(struct report *report, const struct log_report *log)
{
    report->log_count++;
    report->live = report->live || log->state.live;
    if (log->damage_count > 0)
        report->result = TOOL_EXIT_CORRUPT;
    else if (log->state.torn_bytes > 0 && report->result == TOOL_EXIT_OK)
        report->result = TOOL_EXIT_TORN;
}

static void
print_log(const struct log_report *log)
{
    const struct qlog_log_state *state = &log->state;
    char size[SIZE_TEXT];
    (void)printf(
        "%-8s %u segment%s  positions %" PRIu64 " to %" PRIu64 " (%s)  frames %" PRIu64
        "  records %" PRIu64,
        log->name, state->segments, state->segments == 1 ? "" : "s", state->first, state->end,
        q_text_format_size(state->end - state->first, size, sizeof(size)), state->frames,
        state->records);
    if (state->torn_bytes > 0)
        (void)printf(
            "  torn tail: %" PRIu64 " bytes behind the durable mark %" PRIu64, state->torn_bytes,
            state->durable);
    (void)printf("%s\n", log->damage_count == 0 && state->torn_bytes == 0 ? "  ok" : "");
    for (uint64_t i = 0; i < q_min_u64(log->damage_count, DAMAGES_MAX); i++)
        (void)printf(
            "    damage: %s, positions %" PRIu64 " to %" PRIu64 "\n", log->damages[i].what,
            log->damages[i].from, log->damages[i].to);
    if (log->damage_count > DAMAGES_MAX)
        (void)printf("    … and %" PRIu64 " more\n", log->damage_count - DAMAGES_MAX);
}

static const char *
result_text(enum tool_exit result)
{
    return result == TOOL_EXIT_OK ? "ok" : result == TOOL_EXIT_TORN ? "torn" : "corrupt";
}

static void
print_result(const struct report *report)
{
    if (report->live)
        (void)printf("in use by another process: looked at what is below the durable mark\n");
    (void)printf("result: %s", result_text(report->result));
    if (report->result == TOOL_EXIT_TORN)
        (void)printf(
            ". Normal after a kill or power loss; it may include acknowledged records of the last\n"
            "second of a machine that lost power. Next: start again, which cuts it");
    if (report->result == TOOL_EXIT_CORRUPT)
        (void)printf(
            ". What is whole is still served, the damaged ranges are not. Next: keep a copy of\n"
            "the directory, look for disk errors in the kernel's log; `qlog dump` reads the rest");
    (void)printf("  (exit %d)\n", report->result);
}

static void
print_json(const struct report *report)
{
    (void)printf("{\"logs\":[");
    for (unsigned i = 0; i < report->log_count; i++) {
        const struct log_report *log = &report->logs[i];
        const struct qlog_log_state *state = &log->state;
        (void)printf(
            "%s{\"log\":\"%s\",\"segments\":%u,\"first\":%" PRIu64 ",\"end\":%" PRIu64
            ",\"durable\":%" PRIu64 ",\"frames\":%" PRIu64 ",\"records\":%" PRIu64
            ",\"torn_bytes\":%" PRIu64 ",\"rot_bytes\":%" PRIu64 ",\"clean\":%s,\"damages\":[",
            i == 0 ? "" : ",", log->name, state->segments, state->first, state->end, state->durable,
            state->frames, state->records, state->torn_bytes, state->rot_bytes,
            state->clean ? "true" : "false");
        for (uint64_t j = 0; j < q_min_u64(log->damage_count, DAMAGES_MAX); j++)
            (void)printf(
                "%s{\"what\":\"%s\",\"from\":%" PRIu64 ",\"to\":%" PRIu64 "}", j == 0 ? "" : ",",
                log->damages[j].what, log->damages[j].from, log->damages[j].to);
        (void)printf("],\"damage_count\":%" PRIu64 "}", log->damage_count);
    }
    (void)printf(
        "],\"live\":%s,\"result\":\"%s\",\"exit\":%d}\n", report->live ? "true" : "false",
        result_text(report->result), report->result);
}
