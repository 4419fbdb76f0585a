/*
 * ls.c: `qlog ls`: subjects and groups of a store, or the files of any directory.
 */
#include <inttypes.h>
#include <stdio.h>

#include <qbase/clock.h>
#include <qbase/text.h>

#include "command.h"
#include "files.h"
#include "look/audit.h"

enum {
    TEXT_SIZE = 32
};

static enum tool_exit list_files(const struct command_line *line);
static enum tool_exit list_store(const struct command_line *line);
static void print_subjects(const struct ql_audit *audit);
static void print_groups(const struct ql_audit *audit);
static void print_json(const struct ql_audit *audit);

enum tool_exit
ls_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    bool files = false;
    const struct q_opt options[] = {
        { "files", 0, Q_OPT_FLAG, &files, NULL, "list segments and all other files", 0, 0 },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 2, &format, argc, argv, &line, &code)) return code;
    return files ? list_files(&line) : list_store(&line);
}

static enum tool_exit
list_files(const struct command_line *line)
{
    struct ql_directory *directory;
    enum q_err err = ql_directory_open(line->directory, &directory);
    if (err != Q_OK) return report(err, line->json);
    if (line->json) {
        struct json json = { 0 };
        json_open(&json, NULL, '{');
        print_files_json(&json, directory);
        json_close(&json, '}');
        (void)putchar('\n');
    } else {
        print_files(directory);
    }
    enum tool_exit code = directory->home == NULL ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK;
    ql_directory_close(directory);
    return code;
}

static enum tool_exit
list_store(const struct command_line *line)
{
    struct ql_audit audit;
    struct ql_audit_source source;
    ql_audit_init(&audit);
    enum q_err err = ql_audit_read(&audit, line->directory, &source);
    if (err == Q_NOT_FOUND)
        err = Q_FAIL(
            Q_NOT_FOUND, .path = line->directory, .what = "this is no store: it has no subjects",
            .hint = "qlog ls DIR --files lists the files of any directory");
    if (err != Q_OK) {
        ql_audit_fini(&audit);
        return report(err, line->json);
    }
    if (line->json) {
        print_json(&audit);
    } else {
        print_subjects(&audit);
        print_groups(&audit);
    }
    if (source.unindexed > 0)
        (void)fprintf(
            stderr, "qlog: %u of %u segments have no good index file, and were read\n",
            source.unindexed, source.segments);
    if (source.damages > 0)
        (void)fprintf(
            stderr, "qlog: %" PRIu64 " damaged ranges: what they held is not counted\n",
            source.damages);
    if (audit.live)
        (void)fprintf(stderr, "qlog: the directory is in use; read up to its durable mark\n");
    ql_audit_fini(&audit);
    return source.damages > 0 ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK;
}

static int
print_padded(struct q_bytes name, int width)
{
    print_name(stdout, name);
    return (int)name.size < width ? width - (int)name.size : 0;
}

static struct q_bytes
subject_name(const struct ql_audit_subject *subject)
{
    if (subject->name_size > 0) return ql_audit_name(subject);
    return q_bytes_from_text(q_text("#%u", subject->id));
}

/* The second: an index file knows no more. */
static uint64_t
last_stored(const struct ql_audit_subject *subject)
{
    return subject->last_ms - subject->last_ms % Q_MS_PER_S;
}

static void
print_subjects(const struct ql_audit *audit)
{
    (void)printf(
        "%-24s %12s %14s %14s %12s  %s\n", "SUBJECT", "MESSAGES", "FIRST", "NEXT", "STORED",
        "LAST STORED");
    for (uint32_t i = 0; i < audit->subject_count; i++) {
        const struct ql_audit_subject *subject = audit->subjects[i];
        if (subject == NULL) continue;
        char size[TEXT_SIZE];
        char time[TEXT_SIZE] = "-";
        if (subject->messages > 0) q_text_format_time(last_stored(subject), time, sizeof(time));
        int pad = print_padded(subject_name(subject), 24);
        (void)printf(
            "%*s %12" PRIu64 " %14" PRIu64 " %14" PRIu64 " %12s  %s\n", pad, "", subject->messages,
            subject->messages > 0 ? subject->first_sequence : subject->next_sequence,
            subject->next_sequence, q_text_format_size(subject->stored_bytes, size, sizeof(size)),
            time);
    }
}

struct group_counts {
    uint64_t waiting;
    uint64_t held;
    uint64_t pending;
    uint32_t consumers; /* with a session */
};

static struct group_counts
count_group(const struct ql_audit *audit, const struct ql_audit_group *found)
{
    const struct ql_group *group = found->group;
    uint64_t next = audit->subjects[found->subject_id]->next_sequence;
    struct group_counts counts = {
        .waiting = next > group->cursor ? next - group->cursor : 0,
        .pending = group->pending_messages,
    };
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        if (group->consumers[i] == NULL) continue;
        counts.held += group->consumers[i]->held_messages;
        counts.consumers += group->consumers[i]->session != 0;
    }
    return counts;
}

static void
print_groups(const struct ql_audit *audit)
{
    bool first = true;
    for (uint32_t i = 0; i < audit->group_count; i++) {
        const struct ql_audit_group *found = &audit->groups[i];
        if (found->group == NULL) continue;
        if (first)
            (void)printf(
                "\n%-24s %-16s %14s %10s %10s %10s %10s\n", "GROUP", "SUBJECT", "CURSOR", "WAITING",
                "IN HAND", "PENDING", "CONSUMERS");
        first = false;
        struct group_counts counts = count_group(audit, found);
        int pad = print_padded(q_bytes_from(found->group->name, found->group->name_size), 24);
        (void)printf("%*s ", pad, "");
        pad = print_padded(subject_name(audit->subjects[found->subject_id]), 16);
        (void)printf(
            "%*s %14" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %10u\n", pad, "",
            found->group->cursor, counts.waiting, counts.held, counts.pending, counts.consumers);
    }
}

static void
print_json(const struct ql_audit *audit)
{
    struct json json = { 0 };
    json_open(&json, NULL, '{');
    json_open(&json, "subjects", '[');
    for (uint32_t i = 0; i < audit->subject_count; i++) {
        const struct ql_audit_subject *subject = audit->subjects[i];
        if (subject == NULL) continue;
        json_open(&json, NULL, '{');
        json_bytes(&json, "subject", subject_name(subject));
        json_number(&json, "id", subject->id);
        json_number(&json, "messages", subject->messages);
        json_number(
            &json, "first",
            subject->messages > 0 ? subject->first_sequence : subject->next_sequence);
        json_number(&json, "next", subject->next_sequence);
        json_number(&json, "stored_bytes", subject->stored_bytes);
        if (subject->messages > 0) json_time(&json, "last_stored", last_stored(subject));
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "groups", '[');
    for (uint32_t i = 0; i < audit->group_count; i++) {
        const struct ql_audit_group *found = &audit->groups[i];
        if (found->group == NULL) continue;
        struct group_counts counts = count_group(audit, found);
        json_open(&json, NULL, '{');
        json_bytes(&json, "group", q_bytes_from(found->group->name, found->group->name_size));
        json_number(&json, "id", found->group->id);
        json_bytes(&json, "subject", subject_name(audit->subjects[found->subject_id]));
        json_number(&json, "cursor", found->group->cursor);
        json_number(&json, "waiting", counts.waiting);
        json_number(&json, "in_hand", counts.held);
        json_number(&json, "pending", counts.pending);
        json_number(&json, "consumers", counts.consumers);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_bool(&json, "live", audit->live);
    json_close(&json, '}');
    (void)putchar('\n');
}
