/*
 * delay/run_file.c: schedule files as they are found and read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/text.h>
#include <qlog/guard.h>

#include "delay/delay.h"
#include "planted.h"
#include "segment/dir.h"

struct file_list {
    uint32_t *numbers;
    uint32_t count;
    uint32_t capacity;
    bool full;
};

static enum q_err file_read(
    struct ql_env *env, int file, uint64_t at, uint64_t size, const char *path, uint8_t *out);
static bool header_fits(
    const struct ql_schedule_header *header,
    const struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    uint64_t end);
static bool list_name(void *context, const char *name);

enum q_err
ql_run_file_open(
    struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    uint64_t end,
    struct ql_run_file **ret_file,
    uint8_t **ret_tail)
{
    struct qlog_io *io = env->io;
    char path[QL_PATH_MAX];
    uint8_t block[QL_SCHEDULE_HEADER_SIZE];
    uint64_t size;
    int handle =
        io->table->open(io, ql_schedule_path(env, log, segment->number, path), QLOG_IO_OPEN_READ);
    /* What can't be opened for want of something else is as good as it was. */
    enum q_err err = handle < 0 ? q_err_from_errno(-handle) : Q_OK;
    if (err == Q_E_FILES || err == Q_E_NOMEM)
        return Q_FAIL(err, .path = path, .sys = -handle, .what = "open a schedule file");
    if (handle < 0) return Q_NOT_FOUND;
    struct ql_run_file *file = calloc(1, sizeof(*file));
    uint8_t *tail = NULL;
    err = Q_NOT_FOUND;
    if (file == NULL) err = Q_E_NOMEM;
    if (file == NULL || io->table->size(io, handle, &size) != 0 ||
        file_read(env, handle, 0, sizeof(block), path, block) != Q_OK ||
        ql_schedule_header_decode(block, &file->header) != QL_BLOCK_GOOD ||
        !header_fits(&file->header, env, log, segment, end))
        goto out;
    file->layout = ql_schedule_layout(&file->header);
    file->loaded = UINT32_MAX;
    if (size < file->layout.file_size || file->layout.tail_size > UINT32_MAX) goto out;
    tail = malloc(file->layout.tail_size);
    file->starts = malloc((size_t)file->layout.page_count * sizeof(file->starts[0]));
    struct ql_schedule_tail views;
    if (tail == NULL || file->starts == NULL) {
        err = Q_E_NOMEM;
        goto out;
    }
    err = Q_E_CORRUPT;
    if (file_read(env, handle, file->layout.tail_at, file->layout.tail_size, path, tail) != Q_OK ||
        ql_schedule_tail_open(&file->header, q_bytes_from(tail, file->layout.tail_size), &views) !=
            Q_OK)
        goto out;
    for (uint32_t i = 0; i < file->layout.page_count; i++)
        file->starts[i] = ql_schedule_tail_start(&views, i);
    err = Q_OK;
out:
    io->table->close(io, handle);
    if (err == Q_OK) {
        *ret_file = file;
        *ret_tail = tail;
        return Q_OK;
    }
    free(tail);
    ql_run_file_free(env, file);
    return err;
}

static enum q_err
file_read(struct ql_env *env, int file, uint64_t at, uint64_t size, const char *path, uint8_t *out)
{
    struct ql_transfer read = {
        .op = {
            .kind = QLOG_IO_READ,
            .file = file,
            .buffer = -1,
            .data = out,
            .length = (uint32_t)size,
            .at = at,
        },
    };
    int error = ql_transfer_wait(env->io, &read);
    if (error == 0) return Q_OK;
    return Q_FAIL(Q_E_IO, .path = path, .sys = -error, .what = "read a schedule file");
}

static bool
header_fits(
    const struct ql_schedule_header *header,
    const struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    uint64_t end)
{
    return memcmp(header->store_id, env->store_id, sizeof(header->store_id)) == 0 &&
           strcmp(header->log_name, log) == 0 &&
           (QL_PLANTED(schedule_stale) || (header->base == segment->base && header->end == end &&
                                           header->incarnation == segment->incarnation));
}

void
ql_run_file_free(struct ql_env *env, struct ql_run_file *file)
{
    if (file == NULL) return;
    if (file->map != NULL) env->io->table->unmap(env->io, file->map, file->layout.file_size);
    free(file->starts);
    free(file);
}

static enum q_err
file_map(struct ql_env *env, const char *log, uint32_t segment, struct ql_run_file *file)
{
    struct qlog_io *io = env->io;
    char path[QL_PATH_MAX];
    int error = io->table->open(io, ql_schedule_path(env, log, segment, path), QLOG_IO_OPEN_READ);
    if (error >= 0) {
        int handle = error;
        uint64_t size = 0;
        error = io->table->size(io, handle, &size);
        /* No byte of a map may lie behind the file's end. */
        if (error == 0 && size < file->layout.file_size) error = -EIO;
        if (error == 0) file->map = io->table->map(io, handle, file->layout.file_size, &error);
        io->table->close(io, handle);
    }
    if (file->map != NULL) return Q_OK;
    /* Gone, cut or unreadable is damage; everything else may be better at the next try. */
    bool lost = error == -ENOENT || error == -EIO;
    return Q_FAIL(
        lost ? Q_E_CORRUPT : q_err_from_errno(-error), .path = path, .sys = -error,
        .what = "map a schedule file");
}

enum q_err
ql_run_file_load(
    struct ql_env *env,
    const char *log,
    uint32_t segment,
    struct ql_run_file *file,
    uint32_t number)
{
    if (file->loaded == number) return Q_OK;
    uint8_t page[QL_SCHEDULE_PAGE];
    if (file->map == NULL) Q_TRY(file_map(env, log, segment, file));
    uint64_t at = QL_SCHEDULE_HEADER_SIZE + (uint64_t)number * QL_SCHEDULE_PAGE;
    file->loaded = UINT32_MAX;
    /* What the disk does not give is made again like what it gives wrong. */
    if (qlog_guard_copy(page, file->map + at, sizeof(page)) != Q_OK) return Q_E_CORRUPT;
    Q_TRY(ql_schedule_page_decode(page, &file->header, number, file->entries));
    file->loaded = number;
    return Q_OK;
}

/* --- What is there. */

enum q_err
ql_filing_sweep(struct qlog_delay *delay)
{
    struct ql_env *env = &delay->home->env;
    const struct ql_segment_set *segments = &delay->log->segments;
    char path[QL_PATH_MAX];
    ql_dir_path(env, delay->log->name, path);
    struct file_list list = { 0 };
    int rv = env->io->table->list(env->io, path, list_name, &list);
    enum q_err err = Q_OK;
    if (rv < 0)
        err =
            Q_FAIL(q_err_from_errno(-rv), .path = path, .sys = -rv, .what = "list schedule files");
    if (list.full) err = Q_FAIL(Q_E_NOMEM, .what = "list of schedule files");
    for (uint32_t i = 0; err == Q_OK && i < list.count; i++) {
        bool wanted = false;
        for (uint32_t j = 0; j + 1 < segments->count; j++)
            wanted = wanted || segments->segments[j]->number == list.numbers[i];
        if (wanted) continue;
        ql_schedule_path(env, delay->log->name, list.numbers[i], path);
        (void)env->io->table->unlink(env->io, path);
    }
    free(list.numbers);
    return err;
}

static bool
list_name(void *context, const char *name)
{
    static const char prefix[] = "schedule-";
    struct file_list *list = context;
    uint64_t number;
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0) return true;
    if (q_text_parse_u64(name + sizeof(prefix) - 1, 0, UINT32_MAX - 1, &number) != Q_OK)
        return true;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        uint32_t *numbers = realloc(list->numbers, capacity * sizeof(numbers[0]));
        list->full = numbers == NULL;
        if (list->full) return false;
        list->numbers = numbers;
        list->capacity = capacity;
    }
    list->numbers[list->count++] = (uint32_t)number;
    return true;
}
