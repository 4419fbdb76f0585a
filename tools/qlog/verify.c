/*
 * verify.c: `qlog verify`: read every log of a directory to its end, hold a store's logs against
 * each other, and say what is wrong and what to do about that.
 */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbase/text.h>

#include "command.h"
#include "delay/schedule_verify.h"
#include "json.h"
#include "look/check.h"

enum {
    LOGS_MAX = 16,
    DAMAGES_MAX = 100, /* told one by one; further ones are only counted */
    FINDINGS_MAX = 100,
    FINDING_TEXT = 256,
    RECORD_TEXT_MAX = 16 * 1024,
    SIZE_TEXT = 32,
};

struct log_report {
    char name[16];
    struct qlog_log_state state;
    uint64_t damage_count;
    struct qlog_damage damages[DAMAGES_MAX];
};

/* What can't be true of both logs. */
struct finding {
    const char *log;
    uint64_t position;
    char text[FINDING_TEXT];
};

struct report {
    struct log_report logs[LOGS_MAX];
    unsigned log_count;
    enum tool_exit result;
    bool live;
    bool store; /* message and action log */
    bool deep;
    unsigned jobs;
    bool shows_progress;
    uint64_t began_ns;
    struct ql_audit audit;
    struct finding findings[FINDINGS_MAX];
    struct log_report *current;
};

static enum q_err check_all(const char *directory, struct report *report, bool json);
static enum q_err check_log(struct ql_home *home, unsigned index, struct report *report);
static enum q_err check_actions(const char *directory, struct report *report);
static void on_damage(void *context, const struct qlog_damage *damage);
static enum q_err on_digest(void *context, const struct ql_digest *digest);
static void on_finding(void *context, const char *log, uint64_t position, const char *text);
static void on_index_finding(void *context, uint64_t position, const char *text);
static void on_schedule_finding(void *context, uint64_t position, const char *text);
static void on_progress(void *context, uint64_t bytes, uint64_t total);
static void add_damage(struct log_report *log, const struct qlog_damage *damage);
static void add_log(struct report *report, const struct log_report *log);
static void print_findings(const struct report *report);
static void print_log(const struct log_report *log);
static void print_result(const struct report *report);
static void print_json(const struct report *report);

enum tool_exit
verify_run(const struct command *command, int argc, char **argv)
{
    static struct report report_all;
    const char *format = "text";
    uint64_t jobs = 1;
    const struct q_opt options[] = {
        { "deep", 0, Q_OPT_FLAG, &report_all.deep, NULL,
          "check every payload and decode every record", 0, 0 },
        { "jobs", 'j', Q_OPT_NUMBER, &jobs, "N", "threads that read (1)", 1, QL_CHECK_JOBS_MAX },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 3, &format, argc, argv, &line, &code)) return code;

    report_all.jobs = (unsigned)jobs;
    report_all.shows_progress = isatty(STDERR_FILENO) != 0;
    ql_audit_init(&report_all.audit);
    report_all.audit.context = &report_all;
    report_all.audit.on_finding = on_finding;
    enum q_err err = check_all(line.directory, &report_all, line.json);
    if (err != Q_OK) {
        ql_audit_fini(&report_all.audit);
        return report(err, line.json);
    }
    if (line.json) {
        print_json(&report_all);
    } else {
        print_findings(&report_all);
        print_result(&report_all);
    }
    ql_audit_fini(&report_all.audit);
    return report_all.result;
}

static enum q_err
check_all(const char *directory, struct report *report, bool json)
{
    struct ql_home *home;
    Q_TRY(ql_home_open_to_read(directory, NULL, &home));
    report->store = home->log_count == 2 && strcmp(home->logs[0].name, "message") == 0 &&
                    strcmp(home->logs[1].name, "action") == 0;
    report->live = ql_home_is_live(&home->env);
    enum q_err err = Q_OK;
    for (unsigned i = 0; err == Q_OK && i < home->log_count; i++) {
        struct log_report *log = &report->logs[i];
        (void)snprintf(log->name, sizeof(log->name), "%s", home->logs[i].name);
        report->current = log;
        report->began_ns = q_clock_monotonic_ns(q_clock_system());
        err =
            report->store && i == 1 ? check_actions(directory, report) : check_log(home, i, report);
        if (report->shows_progress) (void)fprintf(stderr, "\r\033[K");
        if (err != Q_OK) break;
        add_log(report, log);
        if (!json) print_log(log);
    }
    if (err == Q_OK && report->store) ql_audit_end(&report->audit);
    (void)ql_home_close(home);
    if (report->audit.findings > 0) report->result = TOOL_EXIT_CORRUPT;
    return err;
}

static enum q_err
check_log(struct ql_home *home, unsigned index, struct report *report)
{
    struct ql_check check = {
        .home = home,
        .log = index,
        .live = report->live,
        .deep = report->deep,
        .jobs = report->jobs,
        .context = report,
        .on_damage = on_damage,
        .on_digest = report->store ? on_digest : NULL,
        /* Index files are derived, and say the same as their segments. */
        .on_index = report->store ? on_index_finding : NULL,
        .on_progress = report->shows_progress ? on_progress : NULL,
    };
    enum q_err err = ql_check_run(&check);
    report->current->state = check.state;
    if (err != Q_OK || strcmp(home->logs[index].name, "delay") != 0) return err;
    const struct ql_schedule_verify schedules = {
        .home = home,
        .log = index,
        .deep = report->deep,
        .context = report,
        .on_finding = on_schedule_finding,
    };
    return ql_schedule_verify(&schedules);
}

/* Actions follow from each other, so one thread reads them in order. */
static enum q_err
check_actions(const char *directory, struct report *report)
{
    static char text[RECORD_TEXT_MAX];
    struct log_report *log = report->current;
    struct ql_audit *audit = &report->audit;
    struct qlog_cursor *cursor;
    Q_TRY(qlog_cursor_open(directory, log->name, (qlog_position){ 0 }, &cursor));
    qlog_cursor_set_deep(cursor, report->deep);
    qlog_cursor_state(cursor, &log->state);
    audit->live = report->live || log->state.live;
    audit->unclean = !log->state.clean;
    audit->generation = log->state.generation;
    audit->action_first = log->state.first;
    enum q_err err;
    for (;;) {
        struct qlog_record record;
        struct qlog_damage damage;
        err = qlog_cursor_next(cursor, &record, &damage);
        if (err == Q_OK && report->deep && !qlog_record_describe(&record, true, text, sizeof(text)))
        {
            damage = (struct qlog_damage){ record.frame.value, record.frame.value,
                                           "a record that does not decode" };
            err = Q_E_CORRUPT;
        }
        if (err == Q_E_CORRUPT) {
            add_damage(log, &damage);
            ql_audit_damage(audit, true, damage.to);
            continue;
        }
        if (err == Q_OK) err = ql_audit_action(audit, &record);
        if (err != Q_OK) break;
    }
    qlog_cursor_state(cursor, &log->state);
    qlog_cursor_close(cursor);
    return err == Q_END ? Q_OK : err;
}

static void
on_index_finding(void *context, uint64_t position, const char *text)
{
    struct report *report = context;
    report->audit.findings++;
    on_finding(report, "message", position, text);
}

static void
on_schedule_finding(void *context, uint64_t position, const char *text)
{
    struct report *report = context;
    report->audit.findings++;
    on_finding(report, "delay", position, text);
}

static void
on_damage(void *context, const struct qlog_damage *damage)
{
    struct report *report = context;
    add_damage(report->current, damage);
    ql_audit_damage(&report->audit, false, damage->to);
}

static enum q_err
on_digest(void *context, const struct ql_digest *digest)
{
    struct report *report = context;
    return ql_audit_message(&report->audit, digest);
}

static void
on_finding(void *context, const char *log, uint64_t position, const char *text)
{
    struct report *report = context;
    uint64_t index = report->audit.findings - 1;
    if (index >= FINDINGS_MAX) return;
    struct finding *finding = &report->findings[index];
    *finding = (struct finding){ .log = log, .position = position };
    (void)snprintf(finding->text, sizeof(finding->text), "%s", text);
}

static void
on_progress(void *context, uint64_t bytes, uint64_t total)
{
    const struct report *report = context;
    char done[SIZE_TEXT];
    char all[SIZE_TEXT];
    double seconds =
        (double)(q_clock_monotonic_ns(q_clock_system()) - report->began_ns) / Q_NS_PER_S;
    (void)fprintf(
        stderr, "\r\033[K%s  %s of %s  %.0f %%  %.1f GB/s", report->current->name,
        q_text_format_size(bytes, done, sizeof(done)), q_text_format_size(total, all, sizeof(all)),
        total == 0 ? 100.0 : q_min_u64(bytes, total) * 100.0 / (double)total,
        seconds > 0 ? (double)bytes / seconds / 1e9 : 0.0);
    (void)fflush(stderr);
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

static void
print_findings(const struct report *report)
{
    uint64_t count = report->audit.findings;
    if (count == 0) return;
    (void)printf("across logs:\n");
    for (uint64_t i = 0; i < q_min_u64(count, FINDINGS_MAX); i++) {
        const struct finding *finding = &report->findings[i];
        (void)printf("    %s log, position %" PRIu64 ": ", finding->log, finding->position);
        print_name(stdout, q_bytes_from_text(finding->text));
        (void)putchar('\n');
    }
    if (count > FINDINGS_MAX) (void)printf("    … and %" PRIu64 " more\n", count - FINDINGS_MAX);
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
    struct json json = { 0 };
    json_open(&json, NULL, '{');
    json_open(&json, "logs", '[');
    for (unsigned i = 0; i < report->log_count; i++) {
        const struct log_report *log = &report->logs[i];
        const struct qlog_log_state *state = &log->state;
        json_open(&json, NULL, '{');
        json_text(&json, "log", q_bytes_from_text(log->name));
        json_number(&json, "segments", state->segments);
        json_number(&json, "first", state->first);
        json_number(&json, "end", state->end);
        json_number(&json, "durable", state->durable);
        json_number(&json, "frames", state->frames);
        json_number(&json, "records", state->records);
        json_number(&json, "torn_bytes", state->torn_bytes);
        json_number(&json, "rot_bytes", state->rot_bytes);
        json_bool(&json, "clean", state->clean);
        json_open(&json, "damages", '[');
        for (uint64_t j = 0; j < q_min_u64(log->damage_count, DAMAGES_MAX); j++) {
            json_open(&json, NULL, '{');
            json_text(&json, "what", q_bytes_from_text(log->damages[j].what));
            json_number(&json, "from", log->damages[j].from);
            json_number(&json, "to", log->damages[j].to);
            json_close(&json, '}');
        }
        json_close(&json, ']');
        json_number(&json, "damage_count", log->damage_count);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "findings", '[');
    for (uint64_t i = 0; i < q_min_u64(report->audit.findings, FINDINGS_MAX); i++) {
        const struct finding *finding = &report->findings[i];
        json_open(&json, NULL, '{');
        json_text(&json, "log", q_bytes_from_text(finding->log));
        json_number(&json, "position", finding->position);
        json_text(&json, "what", q_bytes_from_text(finding->text));
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_number(&json, "finding_count", report->audit.findings);
    json_bool(&json, "deep", report->deep);
    json_bool(&json, "live", report->live);
    json_text(&json, "result", q_bytes_from_text(result_text(report->result)));
    json_number(&json, "exit", report->result);
    json_close(&json, '}');
    (void)putchar('\n');
}
