#include "look/directory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/bytes.h>
#include <qbase/text.h>

#include "io/transfer.h"
#include "segment/decisions.h"

static enum q_err directory_look(struct ql_directory *directory);
static void directory_read_super(struct ql_directory *directory);
static enum q_err directory_list(struct ql_directory *directory, unsigned log);
static bool directory_on_name(void *context, const char *name);
static enum ql_file_state directory_judge(struct ql_directory *directory, struct ql_file *file);
static bool name_has_number(const char *name, const char *prefix, uint32_t *ret_number);
static enum ql_file_state directory_judge_segment(
    struct ql_directory *directory, struct ql_file *file, uint32_t number);
static bool directory_read_block(
    struct ql_directory *directory, const char *path, uint64_t at, uint8_t block[QL_BLOCK]);
static int compare_files(const void *a, const void *b);

static const struct {
    const char *text;
    const char *meaning;
    bool aside;
} states[] = {
#define QL_FILE_STATE_ROW(name, text, aside, meaning) [QL_FILE_##name] = { text, meaning, aside },
    QL_FILE_STATE_LIST(QL_FILE_STATE_ROW)
#undef QL_FILE_STATE_ROW
};

const char *
ql_file_state_text(enum ql_file_state state)
{
    return states[state].text;
}

const char *
ql_file_state_meaning(enum ql_file_state state)
{
    return states[state].meaning;
}

bool
ql_file_may_go_aside(enum ql_file_state state)
{
    return states[state].aside;
}

enum q_err
ql_directory_open(const char *path, struct ql_directory **ret_directory)
{
    if (strlen(path) >= QL_DIRECTORY_MAX)
        return Q_FAIL(Q_INVALID, .what = "the directory's path is too long");
    struct ql_directory *directory = calloc(1, sizeof(*directory));
    if (directory == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a directory");
    (void)snprintf(directory->env.path, sizeof(directory->env.path), "%s", path);
    enum q_err err = Q_OK;
    int rv = qlog_io_plain_new(&directory->env.io);
    if (rv < 0) err = Q_FAIL(Q_E_NOMEM, .sys = -rv, .what = "input/output threads");
    if (err == Q_OK) err = directory_look(directory);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        ql_directory_close(directory);
        q_fault_adopt(&fault);
        return err;
    }
    *ret_directory = directory;
    return Q_OK;
}

void
ql_directory_close(struct ql_directory *directory)
{
    if (directory == NULL) return;
    if (directory->home != NULL) (void)ql_home_close(directory->home);
    if (directory->env.io != NULL) directory->env.io->table->destroy(directory->env.io);
    free(directory->files);
    free(directory);
}

static enum q_err
directory_look(struct ql_directory *directory)
{
    struct ql_env *env = &directory->env;
    directory_read_super(directory);
    enum q_err err = ql_home_open_to_read(env->path, NULL, &directory->home);
    if (err != Q_OK) {
        directory->fault = *q_fault_last();
        directory->home = NULL;
        /* Without a good copy and without a segment there is nothing to make a picture of. */
        if (directory->copies_good == 0) return err;
    } else if (directory->copies_good == 0) {
        directory->super = directory->home->super;
    }
    memcpy(env->store_id, directory->super.store_id, sizeof(env->store_id));
    directory->live = ql_home_is_live(env);
    (void)env->io->table->space(
        env->io, env->path, &directory->free_bytes, &directory->total_bytes);
    Q_TRY(directory_list(directory, QL_NO_LOG));
    for (unsigned i = 0; i < directory->super.log_count; i++)
        Q_TRY(directory_list(directory, i));
    qsort(directory->files, directory->file_count, sizeof(struct ql_file), compare_files);
    for (uint32_t i = 0; i < directory->file_count; i++) {
        struct ql_file *file = &directory->files[i];
        if (file->state != QL_FILE_ACTIVE && file->state != QL_FILE_SEALED) continue;
        const struct ql_file *next = i + 1 < directory->file_count ? file + 1 : NULL;
        bool last = next == NULL || next->log != file->log ||
                    (next->state != QL_FILE_ACTIVE && next->state != QL_FILE_SEALED);
        file->state = last ? QL_FILE_ACTIVE : QL_FILE_SEALED;
        const struct ql_super_log *marks = &directory->super.logs[file->log];
        file->end = last ? q_max_u64(marks->durable, file->base) : next->base;
    }
    return Q_OK;
}

static void
directory_read_super(struct ql_directory *directory)
{
    char path[QL_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/superblock", directory->env.path);
    for (unsigned copy = 0; copy < QL_SUPER_COPIES; copy++) {
        uint8_t block[QL_BLOCK];
        struct ql_super super;
        if (!directory_read_block(directory, path, (uint64_t)copy * QL_SUPER_SIZE, block)) continue;
        enum ql_block_state state = ql_super_decode(block, &super);
        if (state == QL_BLOCK_FOREIGN) directory->copies_damaged++;
        if (state != QL_BLOCK_GOOD) continue;
        if (directory->copies_good == 0 || super.sequence > directory->super.sequence)
            directory->super = super;
        directory->copies_good++;
    }
}

struct listing {
    struct ql_directory *directory;
    unsigned log;
    bool full;
};

static enum q_err
directory_list(struct ql_directory *directory, unsigned log)
{
    struct ql_env *env = &directory->env;
    struct listing listing = { .directory = directory, .log = log };
    char path[QL_PATH_MAX];
    (void)snprintf(
        path, sizeof(path), "%s/%s", env->path,
        log == QL_NO_LOG ? "" : directory->super.logs[log].name);
    int rv = env->io->table->list(env->io, path, directory_on_name, &listing);
    if (listing.full) return Q_FAIL(Q_E_NOMEM, .what = "list of files");
    /* A log whose directory is gone: a start says what that means. */
    if (rv == -ENOENT || rv == -ENOTDIR) return Q_OK;
    if (rv < 0)
        return Q_FAIL(q_err_from_errno(-rv), .path = path, .sys = -rv, .what = "list the files");
    return Q_OK;
}

static bool
directory_on_name(void *context, const char *name)
{
    struct listing *listing = context;
    struct ql_directory *directory = listing->directory;
    if (listing->log == QL_NO_LOG) {
        bool inside = strcmp(name, QL_SET_ASIDE) == 0;
        for (unsigned i = 0; i < directory->super.log_count; i++)
            inside = inside || strcmp(name, directory->super.logs[i].name) == 0;
        if (inside) return true;
    }
    if (directory->file_count == directory->file_capacity) {
        uint32_t capacity = directory->file_capacity == 0 ? 16 : directory->file_capacity * 2;
        struct ql_file *files = realloc(directory->files, capacity * sizeof(*files));
        if (files == NULL) {
            listing->full = true;
            return false;
        }
        directory->files = files;
        directory->file_capacity = capacity;
    }
    struct ql_file *file = &directory->files[directory->file_count++];
    *file = (struct ql_file){ .log = listing->log };
    (void)snprintf(file->name, sizeof(file->name), "%s", name);
    file->state = directory_judge(directory, file);
    return true;
}

static enum ql_file_state
directory_judge(struct ql_directory *directory, struct ql_file *file)
{
    struct ql_env *env = &directory->env;
    char path[QL_PATH_MAX];
    int number_file = env->io->table->open(
        env->io, ql_directory_file_path(directory, file, path), QLOG_IO_OPEN_READ);
    if (number_file >= 0) {
        (void)env->io->table->size(env->io, number_file, &file->size);
        env->io->table->close(env->io, number_file);
    }
    if (file->log == QL_NO_LOG) {
        if (strcmp(file->name, "superblock") == 0) return QL_FILE_SUPERBLOCK;
        if (strcmp(file->name, QL_RECOVERY_LOG) == 0) return QL_FILE_RECOVERY_LOG;
        return strcmp(file->name, "LOCK") == 0 ? QL_FILE_LOCK : QL_FILE_UNKNOWN;
    }
    uint32_t number;
    if (number_file < 0) return QL_FILE_UNKNOWN;
    if (name_has_number(file->name, "index-", &number)) return QL_FILE_INDEX;
    if (name_has_number(file->name, "schedule-", &number)) return QL_FILE_SCHEDULE;
    if (!name_has_number(file->name, "segment-", &number)) return QL_FILE_UNKNOWN;
    return directory_judge_segment(directory, file, number);
}

static bool
name_has_number(const char *name, const char *prefix, uint32_t *ret_number)
{
    size_t size = strlen(prefix);
    uint64_t number;
    if (strncmp(name, prefix, size) != 0) return false;
    if (q_text_parse_u64(name + size, 0, UINT32_MAX - 1, &number) != Q_OK) return false;
    *ret_number = (uint32_t)number;
    return true;
}

static enum ql_file_state
directory_judge_segment(struct ql_directory *directory, struct ql_file *file, uint32_t number)
{
    char path[QL_PATH_MAX];
    uint8_t block[QL_BLOCK] = { 0 };
    bool read =
        directory_read_block(directory, ql_directory_file_path(directory, file, path), 0, block);
    enum ql_block_state state = ql_segment_header_decode(block, &file->header);
    file->header_good = state == QL_BLOCK_GOOD;
    const struct ql_super_log *marks = &directory->super.logs[file->log];
    bool mine =
        file->header_good && strcmp(file->header.log_name, marks->name) == 0 &&
        memcmp(file->header.store_id, directory->super.store_id, sizeof(file->header.store_id)) ==
            0;
    file->base = file->header.base;
    if (directory->home != NULL) {
        /* What a start makes of it. */
        const struct ql_log *log = &directory->home->logs[file->log];
        for (unsigned i = 0; i < log->spare_count; i++)
            if (log->spares[i]->number == number) return QL_FILE_SPARE;
        for (uint32_t i = 0; i < log->segments.count; i++) {
            if (log->segments.segments[i]->number != number) continue;
            file->base = log->segments.segments[i]->base;
            bool behind = directory->super.clean && directory->copies_good > 0 &&
                          !directory->live && file->base > marks->end;
            return behind ? QL_FILE_UNREACHED : QL_FILE_SEALED;
        }
    }
    if (mine && !file->header.in_use) return QL_FILE_SPARE;
    if (mine && file->header.base < marks->first) return QL_FILE_DROPPED;
    if (mine) return directory->home == NULL ? QL_FILE_SEALED : QL_FILE_TWIN;
    if (file->header_good) return QL_FILE_FOREIGN;
    if (!read) return QL_FILE_UNREADABLE;
    return q_is_zero(block, QL_BLOCK) ? QL_FILE_HALF_MADE : QL_FILE_NO_HEADER;
}

static bool
directory_read_block(
    struct ql_directory *directory, const char *path, uint64_t at, uint8_t block[QL_BLOCK])
{
    struct ql_env *env = &directory->env;
    int file = env->io->table->open(env->io, path, QLOG_IO_OPEN_READ);
    if (file < 0) return false;
    struct ql_transfer read = {
        .op = {
            .kind = QLOG_IO_READ,
            .file = file,
            .buffer = -1,
            .data = block,
            .length = QL_BLOCK,
            .at = at,
        },
    };
    int rv = ql_transfer_wait(env->io, &read);
    env->io->table->close(env->io, file);
    return rv == 0;
}

/* Beside the logs last, spares and strangers behind what is in use. */
static int
compare_files(const void *a, const void *b)
{
    const struct ql_file *left = a;
    const struct ql_file *right = b;
    if (left->log != right->log) return left->log < right->log ? -1 : 1;
    bool left_used = left->state == QL_FILE_ACTIVE || left->state == QL_FILE_SEALED;
    bool right_used = right->state == QL_FILE_ACTIVE || right->state == QL_FILE_SEALED;
    if (left_used != right_used) return left_used ? -1 : 1;
    if (left_used && left->base != right->base) return left->base < right->base ? -1 : 1;
    return strcmp(left->name, right->name);
}

const char *
ql_directory_file_path(
    const struct ql_directory *directory, const struct ql_file *file, char out[QL_PATH_MAX])
{
    bool beside = file->log == QL_NO_LOG;
    int size = snprintf(
        out, QL_PATH_MAX, "%s/%s%s%s", directory->env.path,
        beside ? "" : directory->super.logs[file->log].name, beside ? "" : "/", file->name);
    /* A name that is too long is nobody's. */
    if (size >= QL_PATH_MAX) out[0] = '\0';
    return out;
}

uint64_t
ql_directory_segment_bytes(const struct ql_directory *directory)
{
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        bool ours = file->state == QL_FILE_ACTIVE || file->state == QL_FILE_SEALED ||
                    file->state == QL_FILE_SPARE;
        if (ours && file->log == 0 && file->header_good) return file->header.file_size;
    }
    return 0;
}
