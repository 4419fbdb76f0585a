/*
 * index.c: `qlog index`: how much of each message segment is in an index file, and what that holds.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <qbase/text.h>
#include <qlog/guard.h>

#include "command.h"
#include "json.h"
#include "log/index_files.h"
#include "look/directory.h"

enum {
    TEXT_SIZE = 32
};

/* X(NAME, text): what a segment's index file is. */
#define STATE_LIST(X)                                                                              \
    X(WHOLE, "whole")     /* it covers all that is durable of the segment */                       \
    X(BEGUN, "begun")     /* it covers the segment's beginning */                                  \
    X(MISSING, "missing") /* a start reads the segment, and makes it */                            \
    X(DAMAGED, "damaged") /* the same */

enum state {
#define STATE_ENUM(name, text) STATE_##name,
    STATE_LIST(STATE_ENUM)
#undef STATE_ENUM
};

struct row {
    const struct ql_segment *segment;
    uint64_t end;                     /* of what is durable in the segment */
    const struct ql_index_file *file; /* NULL: none */
    enum state state;
};

static enum q_err print_all(struct ql_directory *directory, bool json, bool *ret_damaged);
static struct row row_of(
    struct ql_index_files *files, const struct ql_log *log, uint32_t at, uint64_t durable);
static enum q_err check_pages(void *context);
static void print_row(const struct row *row);
static void print_row_json(struct json *json, const struct row *row);

static const char *
state_text(enum state state)
{
    static const char *const texts[] = {
#define STATE_TEXT(name, text) [STATE_##name] = (text),
        STATE_LIST(STATE_TEXT)
#undef STATE_TEXT
    };
    return texts[state];
}

enum tool_exit
index_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    const struct q_opt options[] = { FORMAT_OPTION(format) };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 1, &format, argc, argv, &line, &code)) return code;
    struct ql_directory *directory = NULL;
    bool damaged = false;
    enum q_err err = ql_directory_open(line.directory, &directory);
    if (err == Q_OK && directory->home == NULL) {
        q_fault_adopt(&directory->fault);
        err = directory->fault.err;
    }
    if (err == Q_OK && strcmp(directory->super.logs[0].name, "message") != 0)
        err = Q_FAIL(
            Q_INVALID, .path = directory->env.path,
            .what = "a log of a program's own has no index");
    if (err == Q_OK) err = print_all(directory, line.json, &damaged);
    code = err == Q_OK ? TOOL_EXIT_OK : report(err, line.json);
    ql_directory_close(directory);
    return damaged ? TOOL_EXIT_CORRUPT : code;
}

static enum q_err
print_all(struct ql_directory *directory, bool json_wanted, bool *ret_damaged)
{
    struct ql_log *log = &directory->home->logs[0];
    uint64_t durable = directory->super.logs[0].durable;
    struct ql_index_files files;
    struct json json = { 0 };
    ql_index_files_init(&files, log, NULL, false);
    enum q_err err = ql_index_files_open(&files);
    if (err == Q_OK && json_wanted) {
        json_open(&json, NULL, '{');
        json_open(&json, "segments", '[');
    } else if (err == Q_OK) {
        (void)printf(
            "%-14s %16s %16s %16s %10s %10s %10s  %s\n", "FILE", "FROM", "INDEXED TO", "SEGMENT TO",
            "BATCHES", "SUBJECTS", "SIZE", "STATE");
    }
    for (uint32_t i = 0; err == Q_OK && i < log->segments.count; i++) {
        struct row row = row_of(&files, log, i, durable);
        if (row.state == STATE_DAMAGED) *ret_damaged = true;
        if (json_wanted)
            print_row_json(&json, &row);
        else
            print_row(&row);
    }
    if (err == Q_OK && json_wanted) {
        json_close(&json, ']');
        json_close(&json, '}');
        (void)putchar('\n');
    }
    ql_index_files_fini(&files);
    return err;
}

static struct row
row_of(struct ql_index_files *files, const struct ql_log *log, uint32_t at, uint64_t durable)
{
    const struct ql_segment_set *segments = &log->segments;
    const struct ql_segment *segment = segments->segments[at];
    struct ql_index_file *file = ql_index_files_of(files, segment->base);
    bool last = at + 1 == segments->count;
    struct row row = {
        .segment = segment,
        .end = last ? q_max_u64(durable, segment->base) : segments->segments[at + 1]->base,
        .file = file,
        .state = STATE_MISSING,
    };
    if (file == NULL) return row;
    row.state = file->view.header.end >= row.end ? STATE_WHOLE : STATE_BEGUN;
    enum q_err err = ql_index_files_view(files, file);
    if (err == Q_OK) err = qlog_guard(check_pages, &file->view);
    /* One that its process has replaced meanwhile is none that is damaged. */
    if (err != Q_OK && ql_index_files_has(files, file)) row.state = STATE_DAMAGED;
    return row;
}

static enum q_err
check_pages(void *context)
{
    return ql_index_view_check(context);
}

static void
print_row(const struct row *row)
{
    const struct ql_index_header *header = row->file == NULL ? NULL : &row->file->view.header;
    char name[TEXT_SIZE] = "-";
    char text[TEXT_SIZE] = "-";
    if (header != NULL) {
        (void)snprintf(name, sizeof(name), "index-%06u", row->file->number);
        (void)q_text_format_size(row->file->view.layout.file_size, text, sizeof(text));
    }
    (void)printf(
        "%-14s %16" PRIu64 " %16" PRIu64 " %16" PRIu64 " %10u %10u %10s  %s%s\n", name,
        row->segment->base, header == NULL ? row->segment->base : header->end, row->end,
        header == NULL ? 0 : header->entry_count, header == NULL ? 0 : header->subject_count, text,
        state_text(row->state),
        header != NULL && header->rot_from < header->rot_to ? ", its segment has damage" : "");
}

static void
print_row_json(struct json *json, const struct row *row)
{
    const struct ql_index_header *header = row->file == NULL ? NULL : &row->file->view.header;
    json_open(json, NULL, '{');
    json_number(json, "from", row->segment->base);
    json_number(json, "to", row->end);
    json_text(json, "state", q_bytes_from_text(state_text(row->state)));
    if (header != NULL) {
        char name[TEXT_SIZE];
        (void)snprintf(name, sizeof(name), "index-%06u", row->file->number);
        json_text(json, "file", q_bytes_from_text(name));
        json_number(json, "bytes", row->file->view.layout.file_size);
        json_number(json, "indexed_to", header->end);
        json_bool(json, "sealed", header->sealed);
        json_number(json, "batches", header->entry_count);
        json_number(json, "subjects", header->subject_count);
        json_number(json, "seconds", header->time_count);
        json_number(json, "keys", header->key_count);
        json_time(json, "created", header->created_ms);
        if (header->rot_from < header->rot_to) {
            json_number(json, "damage_from", header->rot_from);
            json_number(json, "damage_to", header->rot_to);
        }
    }
    json_close(json, '}');
}
