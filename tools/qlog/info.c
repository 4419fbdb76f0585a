/*
 * info.c: `qlog info`: what a directory is.
 */
#include <inttypes.h>
#include <stdio.h>

#include <qbase/text.h>

#include "command.h"
#include "files.h"

enum {
    TEXT_SIZE = 32
};

static void print_text(const struct ql_directory *directory);
static void print_json(const struct ql_directory *directory);
static const char *state_text(const struct ql_directory *directory);
static uint32_t segments_of(
    const struct ql_directory *directory, unsigned log, uint64_t *ret_bytes, uint32_t *ret_spares);

enum tool_exit
info_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    const struct q_opt options[] = { FORMAT_OPTION(format) };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 1, &format, argc, argv, &line, &code)) return code;
    struct ql_directory *directory;
    enum q_err err = ql_directory_open(line.directory, &directory);
    if (err != Q_OK) return report(err, line.json);
    if (line.json)
        print_json(directory);
    else
        print_text(directory);
    code = directory->home == NULL ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK;
    ql_directory_close(directory);
    return code;
}

static void
print_text(const struct ql_directory *directory)
{
    const struct ql_super *super = &directory->super;
    char time[TEXT_SIZE];
    char size[TEXT_SIZE];
    char total[TEXT_SIZE];
    (void)printf("directory   %s\nidentity    ", directory->env.path);
    for (unsigned i = 0; i < sizeof(super->store_id); i++)
        (void)printf("%02x", super->store_id[i]);
    (void)printf("\nstate       %s\n", state_text(directory));
    if (directory->home == NULL) {
        char fault[Q_FAULT_LINE_MAX];
        (void)printf("            %s\n", q_fault_format(&directory->fault, fault, sizeof(fault)));
    }
    (void)printf("generation  %" PRIu64 "\n", super->generation);
    (void)printf("created     %s\n", q_text_format_time(super->created_ms, time, sizeof(time)));
    (void)printf(
        "superblock  %u good copies, %u damaged; written %s\n", directory->copies_good,
        directory->copies_damaged, q_text_format_time(super->written_ms, time, sizeof(time)));
    for (unsigned i = 0; i < super->log_count; i++) {
        const struct ql_super_log *log = &super->logs[i];
        uint64_t bytes;
        uint32_t spares;
        uint32_t segments = segments_of(directory, i, &bytes, &spares);
        (void)printf(
            "%-11s from %" PRIu64 ", durable to %" PRIu64, log->name, log->first, log->durable);
        if (super->clean && !directory->live) (void)printf(", ends at %" PRIu64, log->end);
        (void)printf(
            "; %u segment%s and %u spare%s, %s\n", segments, segments == 1 ? "" : "s", spares,
            spares == 1 ? "" : "s", q_text_format_size(bytes, size, sizeof(size)));
    }
    (void)printf(
        "space       the files take %s",
        q_text_format_size(files_bytes(directory), size, sizeof(size)));
    (void)printf(
        "; the file system has %s free of %s\n\n",
        q_text_format_size(directory->free_bytes, size, sizeof(size)),
        q_text_format_size(directory->total_bytes, total, sizeof(total)));
    print_files(directory);
}

static const char *
state_text(const struct ql_directory *directory)
{
    if (directory->home == NULL) return "does not open";
    if (directory->live) return "in use by another process";
    if (directory->copies_good == 0)
        return "no copy of the superblock is readable; a start recovers from the logs alone";
    return directory->super.clean ? "stopped cleanly"
                                  : "not stopped cleanly; the next start looks for the end";
}

static void
print_json(const struct ql_directory *directory)
{
    const struct ql_super *super = &directory->super;
    struct json json = { 0 };
    json_open(&json, NULL, '{');
    json_bytes(&json, "directory", q_bytes_from_text(directory->env.path));
    json_hex(&json, "identity", q_bytes_from(super->store_id, sizeof(super->store_id)));
    json_bool(&json, "opens", directory->home != NULL);
    if (directory->home == NULL) {
        char fault[Q_FAULT_LINE_MAX];
        json_text(
            &json, "fault",
            q_bytes_from_text(q_fault_format(&directory->fault, fault, sizeof(fault))));
    }
    json_bool(&json, "live", directory->live);
    json_bool(&json, "clean", super->clean && !directory->live);
    json_number(&json, "generation", super->generation);
    json_time(&json, "created", super->created_ms);
    json_time(&json, "written", super->written_ms);
    json_number(&json, "superblock_copies_good", directory->copies_good);
    json_number(&json, "superblock_copies_damaged", directory->copies_damaged);
    json_number(&json, "bytes", files_bytes(directory));
    json_number(&json, "disk_free", directory->free_bytes);
    json_number(&json, "disk_total", directory->total_bytes);
    json_open(&json, "logs", '[');
    for (unsigned i = 0; i < super->log_count; i++) {
        const struct ql_super_log *log = &super->logs[i];
        uint64_t bytes;
        uint32_t spares;
        uint32_t segments = segments_of(directory, i, &bytes, &spares);
        json_open(&json, NULL, '{');
        json_text(&json, "log", q_bytes_from_text(log->name));
        json_number(&json, "first", log->first);
        json_number(&json, "durable", log->durable);
        json_number(&json, "end", log->end);
        json_number(&json, "segments", segments);
        json_number(&json, "spares", spares);
        json_number(&json, "bytes", bytes);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    print_files_json(&json, directory);
    json_close(&json, '}');
    (void)putchar('\n');
}

static uint32_t
segments_of(
    const struct ql_directory *directory, unsigned log, uint64_t *ret_bytes, uint32_t *ret_spares)
{
    uint32_t count = 0;
    *ret_bytes = 0;
    *ret_spares = 0;
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        if (file->log != log) continue;
        *ret_bytes += file->size;
        if (file->state == QL_FILE_SPARE) (*ret_spares)++;
        if (file->state == QL_FILE_ACTIVE || file->state == QL_FILE_SEALED) count++;
    }
    return count;
}
