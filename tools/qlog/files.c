#include "files.h"

#include <inttypes.h>
#include <stdio.h>

#include <qbase/text.h>

#include "command.h"

enum {
    TEXT_SIZE = 32
};

static bool
is_used(const struct ql_file *file)
{
    return file->state == QL_FILE_ACTIVE || file->state == QL_FILE_SEALED;
}

static const char *
log_of(const struct ql_directory *directory, const struct ql_file *file)
{
    return file->log == QL_NO_LOG ? "" : directory->super.logs[file->log].name;
}

void
print_files(const struct ql_directory *directory)
{
    (void)printf(
        "%-28s %-10s %10s %16s %16s  %-16s %s\n", "FILE", "STATE", "SIZE", "FROM", "TO",
        "INCARNATION", "CREATED");
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        char size[TEXT_SIZE];
        char time[TEXT_SIZE];
        const char *log = log_of(directory, file);
        int used = printf("%s%s", log, log[0] == '\0' ? "" : "/");
        print_name(stdout, q_bytes_from_text(file->name));
        used += (int)strlen(file->name);
        (void)printf(
            "%*s %-10s %10s", used < 28 ? 28 - used : 0, "", ql_file_state_text(file->state),
            q_text_format_size(file->size, size, sizeof(size)));
        if (is_used(file))
            (void)printf(" %16" PRIu64 " %16" PRIu64, file->base, file->end);
        else
            (void)printf(" %16s %16s", "", "");
        if (file->header_good)
            (void)printf(
                "  %016" PRIx64 " %s", file->header.incarnation,
                q_text_format_time(file->header.created_ms, time, sizeof(time)));
        if (ql_file_may_go_aside(file->state) || file->state == QL_FILE_HALF_MADE ||
            file->state == QL_FILE_UNREADABLE)
            (void)printf("  %s", ql_file_state_meaning(file->state));
        else if (is_used(file) && !file->header_good)
            (void)printf("  the header is damaged; its frames tell the same");
        (void)putchar('\n');
    }
}

void
print_files_json(struct json *json, const struct ql_directory *directory)
{
    json_open(json, "files", '[');
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        json_open(json, NULL, '{');
        if (file->log != QL_NO_LOG)
            json_text(json, "log", q_bytes_from_text(log_of(directory, file)));
        json_bytes(json, "name", q_bytes_from_text(file->name));
        json_text(json, "state", q_bytes_from_text(ql_file_state_text(file->state)));
        json_number(json, "size", file->size);
        if (is_used(file)) {
            json_number(json, "from", file->base);
            json_number(json, "to", file->end);
        }
        if (file->header_good) {
            uint8_t number[8];
            for (unsigned j = 0; j < sizeof(number); j++)
                number[j] = (uint8_t)(file->header.incarnation >> (56 - 8 * j));
            json_hex(json, "incarnation", q_bytes_from(number, sizeof(number)));
            json_number(json, "generation", file->header.generation);
            json_time(json, "created", file->header.created_ms);
        }
        json_close(json, '}');
    }
    json_close(json, ']');
}

uint64_t
files_bytes(const struct ql_directory *directory)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < directory->file_count; i++)
        bytes += directory->files[i].size;
    return bytes;
}
