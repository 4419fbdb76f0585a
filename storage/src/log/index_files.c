#include "log/index_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "log/index_mend.h"
#include "log/index_scan.h"
#include "planted.h"

enum {
    WRITE_BYTES = 1024 * 1024, /* at a time: frames must not wait behind an index */
    MAP_FAILURES_MAX = 2,
    UNLINKS_MAX = 2, /* in a turn: a large file takes the file system milliseconds */
};
#define RETRY_NS (10 * (uint64_t)Q_NS_PER_S)

static const char prefix[] = "index-";

struct file_list {
    uint32_t *numbers;
    uint32_t count;
    uint32_t capacity;
    bool full;
};

static bool list_name(void *context, const char *name);
static enum q_err files_open_one(struct ql_index_files *files, uint32_t number);
static enum q_err files_read_header(
    struct ql_index_files *files, uint32_t number, struct ql_index_header *ret_header);
static bool files_fit(const struct ql_index_files *files, const struct ql_index_header *header);
static enum q_err files_adopt(
    struct ql_index_files *files,
    const struct ql_index_header *header,
    uint32_t number,
    uint8_t *memory);
static void files_remove(struct ql_index_files *files, struct ql_index_file *file, bool unlink);
static void files_unlink(struct ql_index_files *files, uint32_t number);
static void files_remove_doomed(struct ql_index_files *files, uint32_t max);
static bool files_doom(struct ql_index_files *files, uint32_t number);
static enum q_err files_mend(struct ql_index_files *files, const struct ql_index_file *file);
static void step_begin_mend(struct ql_index_files *files, uint64_t now_ns);
static void step_end_mend(struct ql_index_files *files, bool adopted, uint64_t now_ns);
static void step_begin(
    struct ql_index_files *files, struct ql_entries *entries, uint64_t now_ns, bool patient);
static enum q_err step_view_before(
    struct ql_index_files *files, struct ql_index_file *before, uint64_t now_ns);
static bool cut_is_ready(struct ql_index_files *files, struct ql_index_cut *cut, bool patient);
static void step_built(struct ql_index_files *files);
static void step_submit(struct ql_index_files *files);
static void step_on_done(struct ql_transfer *transfer);
static bool step_adopt(struct ql_index_files *files, struct ql_entries *entries, bool in_memory);
static void step_end(struct ql_index_files *files, struct ql_entries *entries, uint64_t now_ns);

static const char *
files_path(const struct ql_index_files *files, uint32_t number, char out[QL_PATH_MAX])
{
    const struct ql_log *log = files->log;
    (void)snprintf(out, QL_PATH_MAX, "%s/%s/%s%06u", log->env->path, log->name, prefix, number);
    return out;
}

void
ql_index_files_init(
    struct ql_index_files *files, struct ql_log *log, const struct ql_log *actions, bool threaded)
{
    *files = (struct ql_index_files){
        .log = log,
        .actions = actions,
        .file = -1,
        .mend = UINT64_MAX,
    };
    ql_index_worker_init(&files->worker, log->env->io, threaded);
}

static void
file_free(struct ql_index_files *files, struct ql_index_file *file)
{
    struct qlog_io *io = files->log->env->io;
    bool mapped = file->memory == NULL && file->view.file != NULL;
    if (mapped) io->table->unmap(io, file->view.file, file->view.layout.file_size);
    free(file->memory);
    ql_index_view_fini(&file->view);
    free(file);
}

void
ql_index_files_fini(struct ql_index_files *files)
{
    if (files->log == NULL) return;
    ql_index_worker_stop(&files->worker);
    files_remove_doomed(files, UINT32_MAX);
    free(files->doomed);
    struct qlog_io *io = files->log->env->io;
    while (files->step >= QL_INDEX_BODY && files->step <= QL_INDEX_HEAD)
        if (io->table->enter(io, Q_NS_PER_MS) < 0) break;
    if (files->file >= 0) io->table->close(io, files->file);
    ql_index_mend_end(&files->build);
    free(files->build.file);
    free(files->build_chunks);
    free(files->build_key_chunks);
    for (uint32_t i = 0; i < files->count; i++)
        file_free(files, files->files[i]);
    free(files->files);
    free(files->cuts);
    *files = (struct ql_index_files){ 0 };
}

/* --- What is there. */

enum q_err
ql_index_files_open(struct ql_index_files *files)
{
    struct ql_env *env = files->log->env;
    char path[QL_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/%s", env->path, files->log->name);
    struct file_list list = { 0 };
    int rv = env->io->table->list(env->io, path, list_name, &list);
    enum q_err err = Q_OK;
    if (rv < 0)
        err = Q_FAIL(
            q_err_from_errno(-rv), .path = path, .sys = -rv, .what = "list a log's index files");
    if (list.full) err = Q_FAIL(Q_E_NOMEM, .what = "list of index files");
    for (uint32_t i = 0; err == Q_OK && i < list.count; i++) {
        files->number_next = (uint32_t)q_max_u64(files->number_next, list.numbers[i] + 1);
        err = files_open_one(files, list.numbers[i]);
    }
    free(list.numbers);
    return err;
}

static bool
list_name(void *context, const char *name)
{
    struct file_list *list = context;
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0) return true;
    char *end;
    unsigned long number = strtoul(name + sizeof(prefix) - 1, &end, 10);
    if (*end != '\0' || end == name + sizeof(prefix) - 1 || number >= UINT32_MAX) return true;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        uint32_t *numbers = realloc(list->numbers, capacity * sizeof(uint32_t));
        list->full = numbers == NULL;
        if (list->full) return false;
        list->numbers = numbers;
        list->capacity = capacity;
    }
    list->numbers[list->count++] = (uint32_t)number;
    return true;
}

/* Adopt it, or throw it away. */
static enum q_err
files_open_one(struct ql_index_files *files, uint32_t number)
{
    struct ql_index_header header;
    struct ql_index_file *known = NULL;
    enum q_err err = files_read_header(files, number, &header);
    if (err < Q_OK) return err;
    bool good = err == Q_OK;
    if (good) known = ql_index_files_of(files, header.base);
    if (!good || (known != NULL && known->view.header.end >= header.end)) {
        files_unlink(files, number);
        return Q_OK;
    }
    if (known != NULL) ql_index_files_drop(files, known, NULL);
    return files_adopt(files, &header, number, NULL);
}

/* Q_OK; Q_NOT_FOUND: it is no whole index of one of the segments; failures to look at it now. */
static enum q_err
files_read_header(struct ql_index_files *files, uint32_t number, struct ql_index_header *ret_header)
{
    struct qlog_io *io = files->log->env->io;
    char path[QL_PATH_MAX];
    int file = io->table->open(io, files_path(files, number, path), QLOG_IO_OPEN_READ);
    /* What can't be opened for want of something else is as good as it was. */
    enum q_err err = file < 0 ? q_err_from_errno(-file) : Q_OK;
    if (err == Q_E_FILES || err == Q_E_NOMEM)
        return Q_FAIL(err, .path = path, .sys = -file, .what = "open an index file");
    if (file < 0) return Q_NOT_FOUND;
    uint8_t block[QL_BLOCK];
    struct ql_transfer read = {
        .op = {
            .kind = QLOG_IO_READ,
            .file = file,
            .buffer = -1,
            .data = block,
            .length = QL_BLOCK,
        },
    };
    uint64_t size = 0;
    bool good = io->table->size(io, file, &size) == 0 && ql_transfer_wait(io, &read) == 0 &&
                ql_index_header_decode(block, ret_header) == QL_BLOCK_GOOD &&
                files_fit(files, ret_header) && size >= ql_index_layout(ret_header).file_size;
    io->table->close(io, file);
    return good ? Q_OK : Q_NOT_FOUND;
}

static bool
files_fit(const struct ql_index_files *files, const struct ql_index_header *header)
{
    const struct ql_log *log = files->log;
    const struct ql_segment *segment = ql_segment_set_find(&log->segments, header->base);
    if (segment == NULL || segment->base != header->base) return false;
    if (memcmp(header->store_id, log->env->store_id, sizeof(header->store_id)) != 0) return false;
    if (strcmp(header->log_name, log->name) != 0) return false;
    if (header->incarnation != segment->incarnation) return false;
    const struct ql_segment *next = ql_segment_set_next(&log->segments, header->base);
    uint64_t limit = next != NULL ? next->base : ql_segment_limit(segment);
    return header->end <= limit;
}

static enum q_err
files_adopt(
    struct ql_index_files *files,
    const struct ql_index_header *header,
    uint32_t number,
    uint8_t *memory)
{
    if (files->count == files->capacity) {
        uint32_t capacity = files->capacity == 0 ? 16 : files->capacity * 2;
        struct ql_index_file **grown = realloc(files->files, capacity * sizeof(*grown));
        if (grown == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of index files");
        files->files = grown;
        files->capacity = capacity;
    }
    struct ql_index_file *file = calloc(1, sizeof(*file));
    if (file == NULL) return Q_FAIL(Q_E_NOMEM, .what = "index file");
    enum q_err err = ql_index_view_init(&file->view, header, memory);
    if (err != Q_OK) {
        free(file);
        return err;
    }
    file->number = number;
    file->memory = memory;
    uint32_t at = ql_index_files_from(files, header->base);
    memmove(&files->files[at + 1], &files->files[at], (files->count - at) * sizeof(*files->files));
    files->files[at] = file;
    files->count++;
    return Q_OK;
}

uint32_t
ql_index_files_from(const struct ql_index_files *files, uint64_t base)
{
    uint32_t low = 0;
    uint32_t high = files->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (files->files[middle]->view.header.base < base)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct ql_index_file *
ql_index_files_of(const struct ql_index_files *files, uint64_t base)
{
    uint32_t at = ql_index_files_from(files, base);
    if (at == files->count || files->files[at]->view.header.base != base) return NULL;
    return files->files[at];
}

enum q_err
ql_index_files_view(struct ql_index_files *files, struct ql_index_file *file)
{
    if (file->view.file != NULL) return Q_OK;
    struct qlog_io *io = files->log->env->io;
    char path[QL_PATH_MAX];
    files_path(files, file->number, path);
    int error = io->table->open(io, path, QLOG_IO_OPEN_READ);
    if (error >= 0) {
        int handle = error;
        uint64_t size = 0;
        error = io->table->size(io, handle, &size);
        /* No byte of a map may lie behind the file's end. */
        if (error == 0 && size < file->view.layout.file_size) error = -EIO;
        if (error == 0)
            file->view.file = io->table->map(io, handle, file->view.layout.file_size, &error);
        io->table->close(io, handle);
    }
    if (file->view.file != NULL) return Q_OK;
    /* Gone, cut or unreadable is damage; everything else may be better at the next try. */
    bool lost = error == -ENOENT || error == -EIO;
    return Q_FAIL(
        lost ? Q_E_CORRUPT : q_err_from_errno(-error), .path = path, .sys = -error,
        .what = "map an index file");
}

bool
ql_index_files_has(const struct ql_index_files *files, const struct ql_index_file *file)
{
    struct qlog_io *io = files->log->env->io;
    char path[QL_PATH_MAX];
    int handle = io->table->open(io, files_path(files, file->number, path), QLOG_IO_OPEN_READ);
    if (handle < 0) return false;
    io->table->close(io, handle);
    return true;
}

static void
files_unlink(struct ql_index_files *files, uint32_t number)
{
    struct ql_env *env = files->log->env;
    char path[QL_PATH_MAX];
    if (!env->read_only) (void)env->io->table->unlink(env->io, files_path(files, number, path));
}

/* What is left of them at a crash fits no segment, and is removed by the next start. */
static void
files_remove_doomed(struct ql_index_files *files, uint32_t max)
{
    if (files->log->env->broken != Q_OK) return;
    for (uint32_t i = 0; i < max && files->doomed_count > 0; i++)
        files_unlink(files, files->doomed[--files->doomed_count]);
}

void
ql_index_files_drop(struct ql_index_files *files, struct ql_index_file *file, const char *why)
{
    char path[QL_PATH_MAX];
    if (why != NULL)
        QL_TELL(
            files->log->env, INDEX_DROPPED, .log = files->log->name,
            .path = files_path(files, file->number, path), .position = file->view.header.base,
            .text = why);
    files_remove(files, file, true);
}

static void
files_remove(struct ql_index_files *files, struct ql_index_file *file, bool unlink)
{
    uint32_t at = ql_index_files_from(files, file->view.header.base);
    while (files->files[at] != file)
        at++;
    /* The worker may be reading it, unless it reads a segment. */
    if (files->step == QL_INDEX_BUILDING && files->build.mend == NULL)
        ql_index_worker_wait(&files->worker);
    if (unlink && file->memory == NULL) files_unlink(files, file->number);
    file_free(files, file);
    files->count--;
    memmove(&files->files[at], &files->files[at + 1], (files->count - at) * sizeof(*files->files));
}

enum q_err
ql_index_files_rebuild(struct ql_index_files *files, struct ql_index_file *file)
{
    struct ql_log *log = files->log;
    struct ql_index_header header = file->view.header;
    const struct ql_segment *segment = ql_segment_set_find(&log->segments, header.base);
    if (segment == NULL || segment->base != header.base)
        return Q_FAIL(
            Q_E_CORRUPT, .path = log->env->path, .position = (int64_t)header.base,
            .what = "an index file is damaged, and its segment is gone");
    if (files->beside) return files_mend(files, file);
    struct ql_index_build build;
    /* Until there is another one, this one stays: without any, its messages would be passed over. */
    Q_TRY(ql_index_rebuild(log->env, log->name, &log->segments, segment, header.end, &build));
    /* To be written with the next cut of its segment, or at the next start. */
    enum q_err err = files_adopt(files, &build.header, 0, build.file);
    if (err == Q_OK)
        ql_index_files_drop(files, file, "it can't be read; it is made again from its segment");
    else
        free(build.file);
    return err;
}

/* The worker is to make it again, if it has nothing to mend yet. */
static enum q_err
files_mend(struct ql_index_files *files, const struct ql_index_file *file)
{
    const struct ql_env *env = files->log->env;
    uint64_t base = file->view.header.base;
    bool resting = q_clock_monotonic_ns(env->clock) < files->mend_retry_ns;
    if (files->mend == UINT64_MAX && resting)
        return Q_FAIL(
            Q_E_IO, .path = env->path, .position = (int64_t)base,
            .what = "an index file is damaged, and could not be made again; it is tried again",
            .hint = "check the disk and the kernel's log");
    if (files->mend == UINT64_MAX) files->mend = base;
    return Q_FAIL(
        Q_E_NOT_NOW, .path = env->path, .position = (int64_t)base,
        .what = "an index file is damaged, and is being made again from its segment");
}

void
ql_index_files_name_queued(struct ql_index_files *files)
{
    files->names_queued++;
}

void
ql_index_files_name_placed(struct ql_index_files *files, uint64_t frame)
{
    Q_ASSERT(files->names_queued > 0);
    files->names_queued--;
    /* The log is durable up to the end of a frame, so one byte of it stands for all. */
    files->names_end = frame + 1;
}

/* False: out of memory; it is removed at once. */
static bool
files_doom(struct ql_index_files *files, uint32_t number)
{
    if (files->doomed_count == files->doomed_capacity) {
        uint32_t capacity = files->doomed_capacity == 0 ? 16 : files->doomed_capacity * 2;
        uint32_t *grown = realloc(files->doomed, capacity * sizeof(*grown));
        if (grown == NULL) return false;
        files->doomed = grown;
        files->doomed_capacity = capacity;
    }
    files->doomed[files->doomed_count++] = number;
    return true;
}

void
ql_index_files_trim(struct ql_index_files *files, uint64_t first)
{
    bool building = files->step != QL_INDEX_IDLE;
    if (building && files->build.header.base < first) {
        /* The worker reads entries that are about to go, unless it reads a segment. */
        if (files->build.mend == NULL) ql_index_worker_wait(&files->worker);
        files->abandoned = true;
    }
    while (files->count > 0 && files->files[0]->view.header.base < first) {
        bool doomed = files->files[0]->memory == NULL && files_doom(files, files->files[0]->number);
        files_remove(files, files->files[0], !doomed);
    }
    uint32_t gone = 0;
    while (gone < files->cut_count && files->cuts[gone].header.base < first)
        gone++;
    files->cut_count -= gone;
    if (building) files->build_cuts -= (uint32_t)q_min_u64(gone, files->build_cuts);
    if (gone > 0) memmove(files->cuts, files->cuts + gone, files->cut_count * sizeof(*files->cuts));
}

/* --- What is made. */

enum q_err
ql_index_files_cut(
    struct ql_index_files *files, const struct ql_index_header *header, uint64_t number_end)
{
    if (files->cut_count == files->cut_capacity) {
        uint32_t capacity = files->cut_capacity == 0 ? 8 : files->cut_capacity * 2;
        struct ql_index_cut *cuts = realloc(files->cuts, capacity * sizeof(*cuts));
        if (cuts == NULL) return Q_FAIL(Q_E_NOMEM, .what = "index of a segment");
        files->cuts = cuts;
        files->cut_capacity = capacity;
    }
    files->cuts[files->cut_count++] = (struct ql_index_cut){
        .header = *header,
        .number_end = number_end,
    };
    return Q_OK;
}

void
ql_index_files_step(
    struct ql_index_files *files, struct ql_entries *entries, uint64_t now_ns, bool patient)
{
    files_remove_doomed(files, UNLINKS_MAX);
    bool idle = files->step == QL_INDEX_IDLE;
    if (idle && files->mend == UINT64_MAX) step_begin(files, entries, now_ns, patient);
    if (idle && files->mend != UINT64_MAX) step_begin_mend(files, now_ns);
    if (files->step == QL_INDEX_BUILDING && ql_index_worker_take(&files->worker)) step_built(files);
    if (files->step == QL_INDEX_WRITTEN || files->step == QL_INDEX_FAILED)
        step_end(files, entries, now_ns);
}

void
ql_index_files_flush(struct ql_index_files *files, struct ql_entries *entries)
{
    struct qlog_io *io = files->log->env->io;
    files->retry_ns = 0;
    while (files->cut_count > 0) {
        uint64_t now_ns = q_clock_monotonic_ns(files->log->env->clock);
        ql_index_files_step(files, entries, now_ns, false);
        if (files->retry_ns != 0) return;
        if (files->step != QL_INDEX_IDLE && io->table->enter(io, Q_NS_PER_MS) < 0) return;
    }
}

static void
step_begin(struct ql_index_files *files, struct ql_entries *entries, uint64_t now_ns, bool patient)
{
    if (files->cut_count == 0 || now_ns < files->retry_ns || files->log->env->broken != Q_OK)
        return;
    uint64_t base = files->cuts[0].header.base;
    uint32_t ready = 0;
    while (ready < files->cut_count && files->cuts[ready].header.base == base &&
           cut_is_ready(files, &files->cuts[ready], patient))
        ready++;
    if (ready == 0) return;
    const struct ql_index_cut *cut = &files->cuts[ready - 1];
    struct ql_index_file *before = ql_index_files_of(files, base);
    if (before != NULL && step_view_before(files, before, now_ns) != Q_OK) return;
    before = ql_index_files_of(files, base);
    files->build = (struct ql_index_build){
        .header = cut->header,
        .from = entries->floor,
        .to = cut->number_end,
        .key_from = entries->keys.floor,
        .key_to = ql_key_rows_from(&entries->keys, cut->number_end),
    };
    files->build.header.created_ms = q_clock_wall_ms(files->log->env->clock);
    if (before != NULL) {
        files->build.before = before->view.file;
        files->build.before_header = before->view.header;
        ql_index_add_rot(
            &files->build.header, before->view.header.rot_from, before->view.header.rot_to);
    }
    /* The table of chunks may move while the worker reads; the chunks don't. */
    free(files->build_chunks);
    free(files->build_key_chunks);
    const struct ql_key_rows *keys = &entries->keys;
    files->build_chunks = malloc((entries->chunk_count + 1) * sizeof(*files->build_chunks));
    files->build_key_chunks = malloc((keys->chunk_count + 1) * sizeof(*files->build_key_chunks));
    if (files->build_chunks == NULL || files->build_key_chunks == NULL) {
        files->retry_ns = now_ns + RETRY_NS;
        return;
    }
    if (entries->chunk_count > 0)
        memcpy(
            files->build_chunks, entries->chunks,
            entries->chunk_count * sizeof(*files->build_chunks));
    if (keys->chunk_count > 0)
        memcpy(
            files->build_key_chunks, keys->chunks,
            keys->chunk_count * sizeof(*files->build_key_chunks));
    files->build.chunks = files->build_chunks;
    files->build.key_chunks = files->build_key_chunks;
    files->build_cuts = ready;
    files->abandoned = false;
    files->transfer.error = 0;
    files->step = QL_INDEX_BUILDING;
    ql_index_worker_start(&files->worker, &files->build);
}

/* What is damaged comes first: somebody waits for it. */
static void
step_begin_mend(struct ql_index_files *files, uint64_t now_ns)
{
    struct ql_log *log = files->log;
    const struct ql_index_file *file = ql_index_files_of(files, files->mend);
    struct ql_segment *segment = ql_segment_set_find(&log->segments, files->mend);
    bool gone = file == NULL || segment == NULL || segment->base != files->mend;
    if (gone || log->env->broken != Q_OK) {
        files->mend = UINT64_MAX;
        return;
    }
    enum q_err err =
        ql_index_mend_begin(log->env, log->name, segment, &file->view.header, &files->build);
    if (err != Q_OK) {
        files->mend = UINT64_MAX;
        files->mend_retry_ns = now_ns + RETRY_NS;
        return;
    }
    files->build_cuts = 0;
    files->abandoned = false;
    files->transfer.error = 0;
    files->step = QL_INDEX_BUILDING;
    ql_index_worker_start(&files->worker, &files->build);
}

/*
 * The file that the next one is made of can be read. One that is lost, or that can't be mapped time and
 * again, is made again from its segment, which needs no file: entries must not pile up behind it.
 */
static enum q_err
step_view_before(struct ql_index_files *files, struct ql_index_file *before, uint64_t now_ns)
{
    char path[QL_PATH_MAX];
    uint64_t base = before->view.header.base;
    enum q_err err = ql_index_files_view(files, before);
    if (err != Q_OK && (err == Q_E_CORRUPT || ++files->map_failures >= MAP_FAILURES_MAX))
        err = ql_index_files_rebuild(files, before);
    if (err == Q_OK) {
        files->map_failures = 0;
        return Q_OK;
    }
    if (err == Q_E_NOT_NOW) return err;
    files->retry_ns = now_ns + RETRY_NS;
    QL_TELL(
        files->log->env, INDEX_FAILED, .log = files->log->name,
        .path = files_path(files, files->number_next, path), .position = base,
        .text = q_text(
            "index of the segment at %llu: the file before can't be read: %s; it is tried again",
            (unsigned long long)base, q_fault_last()->what));
    return err;
}

/*
 * What power loss may still take has no place in a file. Nor has a subject whose name only the
 * message log would know then: who starts from the file does not read what lies below its end.
 */
static bool
cut_is_ready(struct ql_index_files *files, struct ql_index_cut *cut, bool patient)
{
    if (!patient) return true;
    if (files->log->durable < cut->header.end && !QL_PLANTED(index_before_durable)) return false;
    if (files->actions == NULL) return true;
    if (!cut->placed && files->names_queued == 0) {
        cut->placed = true;
        cut->named = files->names_end;
    }
    return cut->placed && files->actions->durable >= cut->named;
}

static void
step_built(struct ql_index_files *files)
{
    struct qlog_io *io = files->log->env->io;
    char path[QL_PATH_MAX];
    files->step = QL_INDEX_FAILED;
    if (files->build.mend != NULL) ql_index_mend_take(&files->build);
    if (files->abandoned) return;
    bool damaged = files->build.err == Q_E_CORRUPT || files->build.err == Q_E_IO;
    if (damaged && files->build.mend == NULL) {
        struct ql_index_file *before = ql_index_files_of(files, files->build.header.base);
        enum q_err err = before == NULL ? Q_OK : ql_index_files_rebuild(files, before);
        if (before != NULL && (err == Q_OK || err == Q_E_NOT_NOW)) {
            files->step = QL_INDEX_IDLE; /* again, from the one that is whole */
            return;
        }
    }
    if (files->build.err != Q_OK) return;
    files->number = files->number_next++;
    files_path(files, files->number, path);
    files->file = io->table->open(io, path, QLOG_IO_OPEN_CREATE);
    if (files->file < 0) {
        files->transfer.error = files->file;
        return;
    }
    files->step = files->build.file_size > QL_BLOCK ? QL_INDEX_BODY : QL_INDEX_HEAD;
    files->moved = QL_BLOCK;
    step_submit(files);
}

/* The next piece of the body, its flush, or the header. */
static void
step_submit(struct ql_index_files *files)
{
    struct qlog_io_op op = { .file = files->file, .buffer = -1 };
    uint64_t left = files->build.file_size - files->moved;
    switch (files->step) {
    case QL_INDEX_BODY:
        op.kind = QLOG_IO_WRITE;
        op.data = files->build.file + files->moved;
        op.at = files->moved;
        op.length = (uint32_t)q_min_u64(left, WRITE_BYTES);
        break;
    case QL_INDEX_BODY_FLUSH:
        op.kind = QLOG_IO_FLUSH;
        break;
    default:
        op.kind = QLOG_IO_WRITE;
        op.durable = true;
        op.data = files->build.file;
        op.length = QL_BLOCK;
        break;
    }
    files->transfer = (struct ql_transfer){ .op = op, .done = step_on_done };
    ql_transfer_submit(files->log->env->io, &files->transfer);
}

static void
step_on_done(struct ql_transfer *transfer)
{
    struct ql_index_files *files = q_container_of(transfer, struct ql_index_files, transfer);
    if (transfer->error != 0) {
        files->step = QL_INDEX_FAILED;
        return;
    }
    switch (files->step) {
    case QL_INDEX_BODY:
        files->moved += transfer->length;
        if (files->moved == files->build.file_size) files->step = QL_INDEX_BODY_FLUSH;
        break;
    case QL_INDEX_BODY_FLUSH:
        files->step = QL_INDEX_HEAD;
        break;
    default:
        files->step = QL_INDEX_WRITTEN;
        return;
    }
    step_submit(files);
}

/* Adopt what was written, or give it up for now. */
static void
step_end(struct ql_index_files *files, struct ql_entries *entries, uint64_t now_ns)
{
    struct ql_env *env = files->log->env;
    bool good = files->step == QL_INDEX_WRITTEN && !files->abandoned;
    int error = files->step == QL_INDEX_FAILED ? files->transfer.error : 0;
    bool opened = files->file >= 0;
    files->step = QL_INDEX_IDLE;
    if (opened) env->io->table->close(env->io, files->file);
    files->file = -1;
    char path[QL_PATH_MAX];
    bool mended = files->build.mend != NULL;
    bool adopted = good && step_adopt(files, entries, false);
    if (!adopted && opened) files_unlink(files, files->number);
    /* What can't be written is of use all the same: somebody waits for it. */
    bool kept = !adopted && mended && !files->abandoned && files->build.file != NULL &&
                step_adopt(files, entries, true);
    free(files->build.file);
    files->build.file = NULL;
    if (mended) step_end_mend(files, adopted || kept, now_ns);
    if (adopted || files->abandoned) return;
    if (!mended) files->retry_ns = now_ns + RETRY_NS;
    QL_TELL(
        env, INDEX_FAILED, .log = files->log->name, .path = files_path(files, files->number, path),
        .position = files->build.header.base,
        .text = q_text(
            "index of the segment at %llu: %s; %s", (unsigned long long)files->build.header.base,
            error < 0 ? strerror(-error) : q_err_name(files->build.err),
            kept ? "it is kept in memory until the next start" : "it is tried again"));
}

static void
step_end_mend(struct ql_index_files *files, bool adopted, uint64_t now_ns)
{
    ql_index_mend_end(&files->build);
    files->mend = UINT64_MAX;
    files->mend_retry_ns = adopted ? 0 : now_ns + RETRY_NS;
}

/* It takes the place of the one before, and of entries in memory. `in_memory`: it is not on the disk. */
static bool
step_adopt(struct ql_index_files *files, struct ql_entries *entries, bool in_memory)
{
    uint64_t base = files->build.header.base;
    struct ql_index_file *before = ql_index_files_of(files, base);
    uint8_t *memory = in_memory ? files->build.file : NULL;
    if (files_adopt(files, &files->build.header, files->number, memory) != Q_OK) return false;
    if (in_memory) files->build.file = NULL;
    struct ql_index_file *file = ql_index_files_of(files, base);
    if (ql_index_files_view(files, file) != Q_OK) {
        ql_index_files_drop(files, file, NULL);
        return false;
    }
    if (files->build.mend != NULL) {
        const struct ql_index_header *header = &files->build.header;
        if (before != NULL)
            ql_index_files_drop(files, before, "it can't be read; it was made again");
        if (header->rot_from < header->rot_to)
            QL_TELL(
                files->log->env, ROT, .log = files->log->name, .path = files->log->env->path,
                .position = header->rot_from, .bytes = header->rot_to - header->rot_from,
                .text = "damaged below the durable mark: met when its index was made again");
        return true;
    }
    if (before != NULL) files_remove(files, before, true);
    ql_entries_drop(entries, files->build.to);
    files->cut_count -= files->build_cuts;
    memmove(files->cuts, files->cuts + files->build_cuts, files->cut_count * sizeof(*files->cuts));
    return true;
}
