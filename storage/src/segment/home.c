#include "segment/home.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include <qbase/assert.h>

#include "planted.h"
#include "segment/decisions.h"

enum {
    LOCK_TRIES = 40, /* after kill -9 the kernel may hold the ring's files for a moment */
    LOCK_PAUSE_MS = 50,
    SUPER_BUSY_NS = Q_NS_PER_S,        /* between writes under load */
    SUPER_IDLE_NS = 100 * Q_NS_PER_MS, /* after a burst */
    TRIM_SUPER_WRITES = 2,
    SEGMENT_BYTES_DEFAULT = 256 * 1024 * 1024,
    SEGMENT_BYTES_SMALL = 16 * 1024 * 1024,
    SEGMENT_BYTES_MIN = 16 * QL_BLOCK,
    SEGMENT_BYTES_MAX = 1024 * 1024 * 1024,
    SEGMENTS_OF_DISK = 64,
    FRAME_BYTES_DEFAULT = 1024 * 1024,
    DEPTH_DEFAULT = 4,
};

static enum q_err home_new(
    const char *directory, const struct qlog_options *options, struct ql_home **ret_home);
static enum q_err home_open_io(struct ql_home *home, struct qlog_io *io);
static void home_set_limits(struct ql_home *home, const struct qlog_options *options);
static enum q_err home_open_directory(struct ql_home *home, bool create);
static enum q_err home_check_ours(
    struct ql_home *home, const char *const *names, unsigned name_count, bool create);
static enum q_err home_lock(struct ql_home *home);
static enum q_err home_need_super(
    struct ql_home *home, const char *const *names, unsigned name_count, bool create);
static enum q_err home_find_super(struct ql_home *home);
static enum q_err home_read_super(struct ql_home *home);
static enum q_err home_adopt(
    struct ql_home *home, const char *const *names, unsigned name_count, enum q_err without);
static enum q_err home_create(struct ql_home *home, const char *const *names, unsigned name_count);
static int home_sync_parent(struct ql_home *home);
static enum q_err home_check_names(
    struct ql_home *home, const char *const *names, unsigned name_count);
static enum q_err home_open_logs(struct ql_home *home);
static enum q_err home_open_segments(struct ql_home *home, struct ql_log *log, uint64_t first);
static void home_discard(
    struct ql_home *home, const struct ql_log *log, uint32_t number, const char *why);
static void home_identify(
    struct ql_home *home,
    const struct ql_log *log,
    struct ql_segment **opened,
    uint32_t count,
    uint64_t first);
static bool home_is_taken(
    struct ql_segment *const *opened, uint32_t count, uint32_t index, uint64_t incarnation);
static enum q_err home_sort_in(
    struct ql_home *home, struct ql_log *log, struct ql_segment *segment, uint64_t first);
static enum q_err home_settle_super(struct ql_home *home);
static enum q_err home_settle(struct ql_home *home, struct ql_log *log);
static void home_trim_go_on(struct ql_home *home);
static void home_on_waited_trim(struct ql_home_trim *trim, enum q_err err);
static enum q_err home_write_super(struct ql_home *home);
static void home_super_block(struct ql_home *home);
static bool home_super_is_due(const struct ql_home *home, uint64_t now_ns);
static void home_super_start(struct ql_home *home, uint64_t now_ns);
static void home_on_super(struct ql_transfer *transfer);
static bool home_is_idle(const struct ql_home *home, bool flushed);
static void home_free(struct ql_home *home);

static const char *
home_path(const struct ql_home *home, const char *name, char out[QL_PATH_MAX])
{
    (void)snprintf(out, QL_PATH_MAX, "%s/%s", home->env.path, name);
    return out;
}

static enum q_err
home_fail(const struct ql_home *home, const char *name, int rv, const char *what)
{
    char path[QL_PATH_MAX];
    return Q_FAIL(
        q_err_from_errno(-rv), .path = home_path(home, name, path), .sys = -rv, .what = what);
}

enum q_err
ql_home_open(
    const char *directory,
    const struct qlog_options *options,
    const char *const *names,
    unsigned name_count,
    struct ql_home **ret_home)
{
    struct ql_home *home;
    Q_TRY(home_new(directory, options, &home));
    enum q_err err = home_open_directory(home, options->create);
    if (err == Q_OK) err = home_check_ours(home, names, name_count, options->create);
    if (err == Q_OK) err = home_lock(home);
    if (err == Q_OK) {
        home->env.decisions = calloc(1, sizeof(struct ql_decisions));
        if (home->env.decisions == NULL) err = Q_FAIL(Q_E_NOMEM, .what = "log of the recovery");
    }
    if (err == Q_OK) err = home_need_super(home, names, name_count, options->create);
    if (err == Q_OK) err = home_check_names(home, names, name_count);
    if (err == Q_OK) err = home_settle_super(home);
    if (err == Q_OK) {
        home->was_clean = home->super.clean;
        home->generation_found = home->super.generation;
        bool raised = !home->was_clean && !home->created && !QL_PLANTED(generation_kept);
        if (raised) home->super.generation++;
        home->super.clean = QL_PLANTED(clean_kept) && home->was_clean;
        home->env.generation = home->super.generation;
    }
    if (err == Q_OK) err = home_open_logs(home);
    if (err != Q_OK) {
        home_free(home);
        return err;
    }
    *ret_home = home;
    return Q_OK;
}

enum q_err
ql_home_open_to_read(const char *directory, struct qlog_io *io, struct ql_home **ret_home)
{
    struct qlog_options options = { .io = io, .read_only = true };
    struct ql_home *home;
    Q_TRY(home_new(directory, &options, &home));
    enum q_err err = home_open_directory(home, false);
    if (err == Q_OK) err = home_find_super(home);
    if (err == Q_OK) {
        home->was_clean = home->super.clean;
        home->generation_found = home->super.generation;
        home->env.generation = home->super.generation;
        err = home_open_logs(home);
    }
    if (err != Q_OK) {
        home_free(home);
        return err;
    }
    *ret_home = home;
    return Q_OK;
}

bool
ql_home_is_live(struct ql_env *env)
{
    char path[QL_PATH_MAX];
    (void)snprintf(path, sizeof(path), "%s/LOCK", env->path);
    int file = env->io->table->open(env->io, path, QLOG_IO_OPEN_READ);
    if (file < 0) return false;
    int rv = env->io->table->lock(env->io, file);
    env->io->table->close(env->io, file);
    return rv < 0;
}

uint64_t
ql_home_first_now(struct ql_home *home, unsigned log)
{
    /* A copy that is being written has the wrong hash, and the one before it counts. */
    if (home->super_file >= 0) (void)home_read_super(home);
    return home->super.logs[log].first;
}

/* The superblock that is there, or what the segments tell without one, or a new one. */
static enum q_err
home_need_super(struct ql_home *home, const char *const *names, unsigned name_count, bool create)
{
    enum q_err err = home_read_super(home);
    if (err == Q_NOT_FOUND || err == Q_E_CORRUPT) err = home_adopt(home, names, name_count, err);
    if (err != Q_NOT_FOUND) return err;
    if (create) return home_create(home, names, name_count);
    return Q_FAIL(Q_NOT_FOUND, .path = home->env.path, .what = "there is no log in the directory");
}

/* The same for tools, which don't know what logs there should be, and make nothing. */
static enum q_err
home_find_super(struct ql_home *home)
{
    static const char *const store_names[] = { "message", "action" };
    static const char *const log_names[] = { "log" };
    enum q_err err = home_read_super(home);
    if (err == Q_NOT_FOUND || err == Q_E_CORRUPT) err = home_adopt(home, store_names, 2, err);
    if (err == Q_NOT_FOUND || err == Q_E_CORRUPT) err = home_adopt(home, log_names, 1, err);
    if (err != Q_NOT_FOUND) return err;
    return Q_FAIL(
        Q_E_FOREIGN, .path = home->env.path, .what = "there is no superblock here",
        .hint = "give the directory of a store or log, such as DIR/broker");
}

static enum q_err
home_new(const char *directory, const struct qlog_options *options, struct ql_home **ret_home)
{
    if (strlen(directory) >= QL_DIRECTORY_MAX || directory[0] == '\0')
        return Q_FAIL(Q_INVALID, .what = "the directory's path is empty or too long");
    struct ql_home *home = calloc(1, sizeof(*home));
    if (home == NULL) return Q_FAIL(Q_E_NOMEM, .what = "log directory");
    (void)snprintf(home->env.path, sizeof(home->env.path), "%s", directory);
    home->lock_file = -1;
    home->super_file = -1;
    home->env.clock = options->clock == NULL ? q_clock_system() : options->clock;
    home->env.observer = options->observer;
    home->env.read_only = options->read_only;
    enum q_err err = home_open_io(home, options->io);
    if (err == Q_OK) err = ql_buffer_take(&home->env, QL_SUPER_SIZE, &home->super_buffer);
    if (err != Q_OK) {
        home_free(home);
        return err;
    }
    home_set_limits(home, options);
    *ret_home = home;
    return Q_OK;
}

static enum q_err
home_open_io(struct ql_home *home, struct qlog_io *io)
{
    home->env.io = io;
    if (io != NULL) return Q_OK;
    home->io_owned = true;
    int rv = qlog_io_uring_new(&home->env.io);
    if (rv < 0) {
        (void)snprintf(
            home->io_note, sizeof(home->io_note), "io_uring is refused here (%s)", strerror(-rv));
        rv = qlog_io_plain_new(&home->env.io);
    }
    if (rv < 0) return Q_FAIL(Q_E_NOMEM, .sys = -rv, .what = "input/output threads");
    if (!home->env.read_only)
        QL_TELL(
            &home->env, IO_BACKEND,
            .text = home->io_note[0] == '\0'
                        ? "io_uring"
                        : q_text("plain read and write threads: %s", home->io_note));
    return Q_OK;
}

static void
home_set_limits(struct ql_home *home, const struct qlog_options *options)
{
    struct ql_env *env = &home->env;
    env->frame_bytes_max =
        options->frame_bytes_max == 0 ? FRAME_BYTES_DEFAULT : options->frame_bytes_max;
    env->depth_max = options->depth_max == 0 ? DEPTH_DEFAULT : options->depth_max;
    if (env->depth_max > QL_DEPTH_MAX) env->depth_max = QL_DEPTH_MAX;
    env->async_flush_ns =
        options->async_flush_ns == 0 ? 200 * (uint64_t)Q_NS_PER_MS : options->async_flush_ns;
    env->async_flush_bytes =
        options->async_flush_bytes == 0 ? 16 * 1024 * 1024 : options->async_flush_bytes;
    env->segment_bytes = q_align_up(options->segment_bytes, QL_BLOCK);
    if (env->segment_bytes != 0)
        env->segment_bytes =
            q_min_u64(q_max_u64(env->segment_bytes, SEGMENT_BYTES_MIN), SEGMENT_BYTES_MAX);
}

/* A small disk gets small segments. Known only once the directory is there. */
static void
home_default_segment_size(struct ql_home *home)
{
    if (home->env.segment_bytes != 0) return;
    uint64_t free_bytes = 0;
    uint64_t total = 0;
    home->env.segment_bytes = SEGMENT_BYTES_DEFAULT;
    int rv = home->env.io->table->space(home->env.io, home->env.path, &free_bytes, &total);
    if (rv < 0) return;
    uint64_t share = q_align_up(total / SEGMENTS_OF_DISK, QL_BLOCK);
    if (share < SEGMENT_BYTES_DEFAULT)
        home->env.segment_bytes = q_max_u64(share, SEGMENT_BYTES_SMALL);
}

/* Logs beside the first one take less. */
static uint64_t
home_minor_segment_size(const struct ql_home *home)
{
    uint64_t size = q_align_up(home->env.segment_bytes / 4, QL_BLOCK);
    return q_min_u64(home->env.segment_bytes, q_max_u64(size, SEGMENT_BYTES_SMALL));
}

static enum q_err
home_open_directory(struct ql_home *home, bool create)
{
    const struct qlog_io_table *table = home->env.io->table;
    /* A listing tells at once whether it is a directory that we may read. */
    int rv = table->sync_directory(home->env.io, home->env.path);
    if (rv == -ENOENT && create) {
        rv = table->make_directory(home->env.io, home->env.path);
        if (rv < 0)
            return Q_FAIL(
                q_err_from_errno(-rv), .path = home->env.path, .sys = -rv,
                .what = "create the data directory");
    }
    if (rv == -ENOENT)
        return Q_FAIL(
            Q_NOT_FOUND, .path = home->env.path, .what = "there is no such directory",
            .hint = "check the path");
    if (rv < 0)
        return Q_FAIL(
            q_err_from_errno(-rv), .path = home->env.path, .sys = -rv,
            .what = "open the data directory");
    home_default_segment_size(home);
    return Q_OK;
}

/* Before the first file is made: a directory with other people's files in it is left alone. */
struct home_listing {
    const char *const *names;
    unsigned name_count;
    bool has_super;
    bool has_log;
    char foreign[64];
};

static bool
home_list_name(void *context, const char *name)
{
    struct home_listing *listing = context;
    if (strcmp(name, "superblock") == 0) {
        listing->has_super = true;
        return true;
    }
    if (strcmp(name, "LOCK") == 0 || strcmp(name, QL_SET_ASIDE) == 0 ||
        strcmp(name, QL_RECOVERY_LOG) == 0)
        return true;
    for (unsigned i = 0; i < listing->name_count; i++)
        if (strcmp(name, listing->names[i]) == 0) {
            listing->has_log = true;
            return true;
        }
    (void)snprintf(listing->foreign, sizeof(listing->foreign), "%s", name);
    return true;
}

static enum q_err
home_check_ours(struct ql_home *home, const char *const *names, unsigned name_count, bool create)
{
    struct home_listing listing = { .names = names, .name_count = name_count };
    int rv = home->env.io->table->list(home->env.io, home->env.path, home_list_name, &listing);
    if (rv < 0) return home_fail(home, "", rv, "list the data directory");
    bool empty = !listing.has_super && !listing.has_log && listing.foreign[0] == '\0';
    if (empty && !create)
        return Q_FAIL(
            Q_NOT_FOUND, .path = home->env.path, .what = "there is no log in the directory");
    if (listing.has_super || listing.foreign[0] == '\0') return Q_OK;
    return Q_FAIL(
        Q_E_FOREIGN, .path = home->env.path,
        .what = q_text("the directory holds other files (\"%s\") and no store", listing.foreign),
        .hint = "use an empty or new directory");
}

static enum q_err
home_lock(struct ql_home *home)
{
    char path[QL_PATH_MAX];
    home_path(home, "LOCK", path);
    const struct qlog_io_table *table = home->env.io->table;
    home->lock_file = table->open(home->env.io, path, QLOG_IO_OPEN_CREATE);
    if (home->lock_file < 0) return home_fail(home, "LOCK", home->lock_file, "open the lock file");
    int rv = 0;
    for (unsigned i = 0; i < LOCK_TRIES; i++) {
        rv = table->lock(home->env.io, home->lock_file);
        if (rv != -EWOULDBLOCK) break;
        (void)nanosleep(&(struct timespec){ .tv_nsec = LOCK_PAUSE_MS * Q_NS_PER_MS }, NULL);
    }
    if (rv == -EWOULDBLOCK)
        return Q_FAIL(
            Q_E_LOCKED, .path = path, .what = "another process has this data directory open",
            .hint = "stop that process, or use another --dir");
    if (rv < 0) return home_fail(home, "LOCK", rv, "lock the data directory");
    return Q_OK;
}

/* The newest good copy. Q_NOT_FOUND: there is none, and never was. */
static enum q_err
home_read_super(struct ql_home *home)
{
    const struct qlog_io_table *table = home->env.io->table;
    char path[QL_PATH_MAX];
    home_path(home, "superblock", path);
    if (home->super_file < 0) {
        home->super_file =
            table->open(home->env.io, path, home->env.read_only ? QLOG_IO_OPEN_READ : 0);
        if (home->super_file == -ENOENT) return Q_NOT_FOUND;
        if (home->super_file < 0)
            return home_fail(home, "superblock", home->super_file, "open the superblock");
    }
    unsigned damaged = 0;
    for (unsigned copy = 0; copy < QL_SUPER_COPIES; copy++) {
        struct ql_transfer read = {
            .op = {
                .kind = QLOG_IO_READ,
                .file = home->super_file,
                .buffer = -1,
                .data = home->super_buffer->data,
                .length = QL_SUPER_SIZE,
                .at = (uint64_t)copy * QL_SUPER_SIZE,
            },
        };
        int rv = ql_transfer_wait(home->env.io, &read);
        if (rv < 0) {
            damaged++;
            continue;
        }
        struct ql_super super;
        enum ql_block_state state = ql_super_decode(home->super_buffer->data, &super);
        if (state == QL_BLOCK_NEWER)
            return Q_FAIL(
                Q_E_VERSION, .path = path, .what = "the directory was written by a newer version",
                .hint = "use that version");
        if (state == QL_BLOCK_FOREIGN) damaged++;
        if (state != QL_BLOCK_GOOD) continue;
        bool newer = !home->super_found || super.sequence > home->super.sequence;
        if (newer || QL_PLANTED(super_any)) home->super = super;
        home->super_found = true;
    }
    if (home->super_found) {
        memcpy(home->env.store_id, home->super.store_id, sizeof(home->env.store_id));
        return Q_OK;
    }
    if (damaged == 0) return Q_NOT_FOUND;
    return Q_FAIL(
        Q_E_CORRUPT, .path = path, .position = 0, .what = "no copy of the superblock is readable",
        .hint = "the logs are untouched; keep the directory and ask for help");
}

static enum q_err
home_create(struct ql_home *home, const char *const *names, unsigned name_count)
{
    const struct qlog_io_table *table = home->env.io->table;
    Q_ASSERT(name_count <= QL_LOGS_MAX);
    home->created = true;
    home->super = (struct ql_super){
        .clean = true,
        .log_count = (uint8_t)name_count,
        .created_ms = q_clock_wall_ms(home->env.clock),
    };
    uint64_t incarnations[QL_LOGS_MAX];
    if (getrandom(home->super.store_id, sizeof(home->super.store_id), 0) !=
            (ssize_t)sizeof(home->super.store_id) ||
        getrandom(incarnations, sizeof(incarnations), 0) != (ssize_t)sizeof(incarnations))
        return Q_FAIL(Q_E_IO, .sys = errno, .what = "random bytes for the store's identity");
    memcpy(home->env.store_id, home->super.store_id, sizeof(home->env.store_id));
    for (unsigned i = 0; i < name_count; i++) {
        (void)snprintf(home->super.logs[i].name, QL_LOG_NAME_MAX, "%s", names[i]);
        /* Where a log begins to count is its own: a frame that strays into another log or directory
         * is none there, and nobody who writes messages can make one up. */
        home->super.logs[i].incarnation = incarnations[i] >> 1;
    }

    char path[QL_PATH_MAX];
    for (unsigned i = 0; i < name_count; i++) {
        int rv = table->make_directory(home->env.io, home_path(home, names[i], path));
        if (rv < 0 && rv != -EEXIST)
            return home_fail(home, names[i], rv, "create a log's directory");
    }
    if (home->super_file < 0)
        home->super_file =
            table->open(home->env.io, home_path(home, "superblock", path), QLOG_IO_OPEN_CREATE);
    if (home->super_file < 0)
        return home_fail(home, "superblock", home->super_file, "create the superblock");
    int rv =
        table->allocate(home->env.io, home->super_file, (uint64_t)QL_SUPER_COPIES * QL_SUPER_SIZE);
    if (rv < 0) return home_fail(home, "superblock", rv, "allocate the superblock");
    rv = table->sync_directory(home->env.io, home->env.path);
    if (rv == 0) rv = home_sync_parent(home);
    if (rv < 0) return home_fail(home, "", rv, "flush the data directory");
    QL_TELL(&home->env, CREATED, .path = home->env.path, .text = "new directory");
    return Q_OK;
}

/*
 * Make the directory's own name durable. Not where it is made: a process that was killed in between
 * left a directory that looks like any other.
 */
static int
home_sync_parent(struct ql_home *home)
{
    char parent[QL_PATH_MAX];
    (void)snprintf(parent, sizeof(parent), "%s", home->env.path);
    size_t size = strlen(parent);
    while (size > 1 && parent[size - 1] == '/')
        parent[--size] = '\0';
    char *slash = strrchr(parent, '/');
    if (slash == NULL)
        (void)snprintf(parent, sizeof(parent), ".");
    else
        slash[slash == parent ? 1 : 0] = '\0';
    int rv = home->env.io->table->sync_directory(home->env.io, parent);
    /* Somebody else made the directory for us, in a place that we may not read. */
    return rv == -EACCES ? 0 : rv;
}

static enum q_err
home_check_names(struct ql_home *home, const char *const *names, unsigned name_count)
{
    bool same = home->super.log_count == name_count;
    for (unsigned i = 0; same && i < name_count; i++)
        same = strcmp(home->super.logs[i].name, names[i]) == 0;
    if (same) return Q_OK;
    return Q_FAIL(
        Q_E_FOREIGN, .path = home->env.path,
        .what = q_text(
            "the directory holds a \"%s\" log where a \"%s\" log is wanted",
            home->super.logs[0].name, names[0]),
        .hint = "use another directory");
}

static enum q_err
home_open_logs(struct ql_home *home)
{
    home->log_count = home->super.log_count;
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_init(
            &home->logs[i], &home->env, home->super.logs[i].name,
            i == 0 ? home->env.segment_bytes : home_minor_segment_size(home));
    for (unsigned i = 0; i < home->log_count; i++) {
        home->logs[i].incarnation = home->super.logs[i].incarnation;
        Q_TRY(home_open_segments(home, &home->logs[i], home->super.logs[i].first));
    }
    return Q_OK;
}

struct segment_numbers {
    uint32_t *numbers;
    uint32_t count;
    uint32_t capacity;
    bool full;
};

static bool
home_list_segment(void *context, const char *name)
{
    struct segment_numbers *list = context;
    static const char prefix[] = "segment-";
    if (strncmp(name, prefix, sizeof(prefix) - 1) != 0) return true;
    char *end;
    unsigned long number = strtoul(name + sizeof(prefix) - 1, &end, 10);
    if (*end != '\0' || end == name + sizeof(prefix) - 1 || number >= UINT32_MAX) return true;
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity == 0 ? 64 : list->capacity * 2;
        uint32_t *numbers = realloc(list->numbers, capacity * sizeof(uint32_t));
        if (numbers == NULL) {
            list->full = true;
            return false;
        }
        list->numbers = numbers;
        list->capacity = capacity;
    }
    list->numbers[list->count++] = (uint32_t)number;
    return true;
}

/*
 * No copy of the superblock is left. The segments know whose they are, and frames know durable
 * marks and generations: recovery goes on from those. `without`: what to answer when there are no
 * segments either.
 */
static enum q_err
home_adopt(struct ql_home *home, const char *const *names, unsigned name_count, enum q_err without)
{
    struct q_fault fault = *q_fault_last();
    bool found = false;
    char path[QL_PATH_MAX];
    for (unsigned i = 0; i < name_count && !found; i++) {
        struct segment_numbers list = { 0 };
        int rv = home->env.io->table->list(
            home->env.io, home_path(home, names[i], path), home_list_segment, &list);
        for (uint32_t j = 0; rv == 0 && j < list.count && !found; j++)
            found = ql_segment_peek(&home->env, names[i], list.numbers[j], home->env.store_id);
        free(list.numbers);
    }
    if (!found) {
        q_fault_adopt(&fault);
        return without;
    }
    home->super = (struct ql_super){
        .log_count = (uint8_t)name_count,
        .created_ms = q_clock_wall_ms(home->env.clock),
    };
    memcpy(home->super.store_id, home->env.store_id, sizeof(home->super.store_id));
    for (unsigned i = 0; i < name_count; i++)
        (void)snprintf(home->super.logs[i].name, QL_LOG_NAME_MAX, "%s", names[i]);
    home_path(home, "superblock", path);
    if (home->super_file < 0 && !home->env.read_only)
        home->super_file = home->env.io->table->open(home->env.io, path, QLOG_IO_OPEN_CREATE);
    if (home->super_file < 0 && !home->env.read_only)
        return home_fail(home, "superblock", home->super_file, "create the superblock");
    int rv = 0;
    if (!home->env.read_only && !QL_PLANTED(adopted_unflushed))
        rv = home->env.io->table->sync_directory(home->env.io, home->env.path);
    if (rv < 0) return home_fail(home, "", rv, "flush the data directory");
    QL_TELL(
        &home->env, ROT, .path = path, .bytes = (uint64_t)QL_SUPER_COPIES * QL_SUPER_SIZE,
        .text = "no copy of the superblock is readable; recovering from the logs alone");
    return Q_OK;
}

static enum q_err
home_open_segments(struct ql_home *home, struct ql_log *log, uint64_t first)
{
    struct ql_env *env = &home->env;
    struct segment_numbers list = { 0 };
    char path[QL_PATH_MAX];
    int rv =
        env->io->table->list(env->io, home_path(home, log->name, path), home_list_segment, &list);
    enum q_err err = Q_OK;
    if (rv < 0) err = home_fail(home, log->name, rv, "list a log's segments");
    if (list.full) err = Q_FAIL(Q_E_NOMEM, .what = "list of segments");
    struct ql_segment **opened = calloc(list.count + 1, sizeof(*opened));
    if (opened == NULL) err = Q_FAIL(Q_E_NOMEM, .what = "list of segments");
    for (uint32_t i = 0; err == Q_OK && i < list.count; i++) {
        log->number_next = (uint32_t)q_max_u64(log->number_next, list.numbers[i] + 1);
        err = ql_segment_open(env, log->name, list.numbers[i], &opened[i]);
        if (err == Q_NOT_FOUND) {
            /* A spare whose making was cut short: nothing was ever in it. */
            err = Q_OK;
            home_discard(home, log, list.numbers[i], "a segment whose making was cut short");
        }
    }
    if (err == Q_OK) home_identify(home, log, opened, list.count, first);
    /* Before a file goes: what gave a wrong header away may be among those, and the next start would
     * take it for right. */
    for (uint32_t i = 0; err == Q_OK && i < list.count && !env->read_only; i++)
        if (opened[i] != NULL && opened[i]->mended)
            err = ql_segment_write_header(env, opened[i], log->name);
    for (uint32_t i = 0; err == Q_OK && i < list.count; i++) {
        if (opened[i] == NULL) continue;
        err = home_sort_in(home, log, opened[i], first);
        if (err == Q_OK) opened[i] = NULL;
    }
    for (uint32_t i = 0; opened != NULL && i < list.count; i++)
        ql_segment_free(env, opened[i]);
    free(opened);
    free(list.numbers);
    return err;
}

static void
home_discard(struct ql_home *home, const struct ql_log *log, uint32_t number, const char *why)
{
    char path[QL_PATH_MAX];
    if (home->env.read_only) return;
    ql_segment_path(&home->env, log->name, number, path);
    QL_TELL(&home->env, DISCARDED, .log = log->name, .path = path, .text = why);
    (void)home->env.io->table->unlink(home->env.io, path);
}

/*
 * No two files have one incarnation, and no frame contradicts the header before it. Where that is
 * so, a header was written to the wrong place or not at all, and the frames say what the file is,
 * unless it is a frame that strayed: that one is at home in another file, or alone.
 */
static void
home_identify(
    struct ql_home *home,
    const struct ql_log *log,
    struct ql_segment **opened,
    uint32_t count,
    uint64_t first)
{
    for (uint32_t i = 0; i < count; i++)
        if (opened[i] != NULL && home_is_taken(opened, count, i, opened[i]->incarnation))
            opened[i]->doubtful = true;
    for (uint32_t i = 0; i < count; i++) {
        struct ql_segment *segment = opened[i];
        if (segment == NULL || !segment->doubtful) continue;
        struct ql_segment_survey survey;
        ql_segment_survey(&home->env, segment, &survey);
        bool dropped = segment->state != QL_SEGMENT_SPARE && segment->base < first;
        bool newer = survey.incarnation > segment->incarnation && (survey.count > 1 || dropped);
        bool twin = home_is_taken(opened, count, i, segment->incarnation);
        segment->doubtful = survey.fitting == 0 || newer;
        if (!segment->doubtful || survey.count == 0 || survey.base < first) continue;
        if (!newer && !twin && survey.incarnation != segment->incarnation) continue;
        if (!home_is_taken(opened, count, i, survey.incarnation))
            ql_segment_become(&home->env, segment, log->name, &survey);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (opened[i] == NULL || !opened[i]->doubtful) continue;
        if (!home_is_taken(opened, count, i, opened[i]->incarnation)) continue;
        /* Nothing in it tells what it is. The file stays. */
        ql_segment_free(&home->env, opened[i]);
        opened[i] = NULL;
    }
}

/* By another file. */
static bool
home_is_taken(
    struct ql_segment *const *opened, uint32_t count, uint32_t index, uint64_t incarnation)
{
    for (uint32_t i = 0; i < count; i++)
        if (i != index && opened[i] != NULL && opened[i]->incarnation == incarnation) return true;
    return false;
}

/* Into the set, to the spares, or away. Takes it when the answer is Q_OK. */
static enum q_err
home_sort_in(struct ql_home *home, struct ql_log *log, struct ql_segment *segment, uint64_t first)
{
    log->incarnation = q_max_u64(log->incarnation, segment->incarnation);
    bool dropped = segment->state != QL_SEGMENT_SPARE && segment->base < first;
    if (segment->state == QL_SEGMENT_SPARE && log->spare_count < QL_SPARES_MAX) {
        log->spares[log->spare_count++] = segment;
    } else if (segment->state == QL_SEGMENT_SPARE || dropped) {
        /* Enough of them; and what lies below the first position was dropped before. */
        home_discard(
            home, log, segment->number,
            dropped ? "a segment that retention had dropped" : "a spare too many");
        ql_segment_free(&home->env, segment);
    } else {
        return ql_segment_set_add(&log->segments, segment);
    }
    return Q_OK;
}

void
ql_home_recover_init(struct ql_home *home, unsigned log, struct ql_recover *ret_recover)
{
    const struct ql_segment_set *segments = &home->logs[log].segments;
    const struct ql_super_log *marks = &home->super.logs[log];
    /* Where the superblock says that the log begins. Without one the segments are all there is. */
    uint64_t from = marks->first;
    if (segments->count > 0 && (!home->super_found || segments->segments[0]->base < marks->first))
        from = segments->segments[0]->base;
    *ret_recover = (struct ql_recover){
        .env = &home->env,
        .log = home->logs[log].name,
        .segments = segments,
        .from = from,
        .marks = home->super.logs[log],
        .since = home->generation_found,
        .clean = home->was_clean,
    };
}

enum q_err
ql_home_recover(struct ql_home *home, unsigned index, struct ql_recover *recover)
{
    struct ql_log *log = &home->logs[index];
    const struct ql_super_log *marks = &home->super.logs[index];
    if (log->segments.count == 0 && marks->durable > marks->first) {
        char path[QL_PATH_MAX];
        return Q_FAIL(
            Q_E_CORRUPT, .path = home_path(home, log->name, path),
            .position = (int64_t)marks->first,
            .what = q_text(
                "all files of the %s log are missing; it had flushed bytes %" PRIu64 " to %" PRIu64,
                log->name, marks->first, marks->durable),
            .hint = "mount or restore them; nothing was changed");
    }
    Q_TRY(ql_recover(recover));
    if (recover->torn_bytes > 0)
        QL_TELL(
            &home->env, TORN_TAIL, .log = log->name, .path = home->env.path,
            .position = recover->end, .bytes = recover->torn_bytes,
            .text = q_text(
                "torn tail: %" PRIu64 " bytes behind the durable mark %" PRIu64
                ", may include acknowledged frames of the last second",
                recover->torn_bytes, recover->durable));
    log->tail = recover->end;
    log->written = recover->end;
    log->durable = recover->end;
    log->chain = recover->chain;
    log->wall_ms = recover->wall_ms;
    /* A superblock that is older than the log can't vouch for a clean stop. */
    if (recover->end != recover->marks.end) home->was_clean = false;
    bool behind = home->super.generation <= recover->generation && !QL_PLANTED(generation_kept);
    bool something = recover->frames > 0 || recover->linked;
    if (!home->was_clean && something && behind) home->super.generation = recover->generation + 1;
    home->env.generation = home->super.generation;

    /* The segment that holds the end goes on being written, unless its last frame is a seal. */
    struct ql_segment_set *segments = &log->segments;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < segments->count; i++) {
        struct ql_segment *segment = segments->segments[i];
        if (segment->base > recover->end) {
            /* Its header was written, but nothing that is left of the log leads to it: it was never
             * durable, and must not be met again when the log has grown up to its base. */
            home_discard(
                home, log, segment->number, "a segment behind the end: it was never durable");
            ql_segment_free(&home->env, segment);
            continue;
        }
        segment->state = QL_SEGMENT_SEALED;
        segment->end = i + 1 < segments->count ? segments->segments[i + 1]->base : recover->end;
        segments->segments[kept++] = segment;
    }
    segments->count = kept;
    bool full =
        kept > 0 && recover->end + QL_BLOCK > ql_segment_limit(segments->segments[kept - 1]);
    bool sealed = recover->sealed && kept > 0 && segments->segments[kept - 1]->base != recover->end;
    if (kept > 0 && !sealed && !full) {
        log->active = segments->segments[kept - 1];
        log->active->state = QL_SEGMENT_ACTIVE;
        uint64_t zeroed = q_max_u64(home->super.logs[index].zeroed, log->tail);
        if (zeroed < ql_segment_limit(log->active))
            log->active->zeroed = ql_segment_offset(log->active, zeroed);
    }
    return Q_OK;
}

enum q_err
ql_home_start(struct ql_home *home)
{
    for (unsigned i = 0; i < home->log_count && !home->was_clean; i++)
        Q_TRY(home_settle(home, &home->logs[i]));
    for (unsigned i = 0; i < home->log_count; i++) {
        struct ql_log *log = &home->logs[i];
        struct ql_super_log *marks = &home->super.logs[i];
        marks->durable = log->durable;
        marks->end = log->tail;
        marks->chain = log->chain;
        marks->incarnation = log->incarnation;
        marks->first = log->segments.count > 0 ? log->segments.segments[0]->base : log->tail;
    }
    Q_TRY(home_write_super(home));
    for (unsigned i = 0; i < home->log_count; i++)
        Q_TRY(ql_log_start(&home->logs[i]));
    home->started = true;
    /* A log that needs a spare refuses what comes before its first turn. */
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_prepare(&home->logs[i], q_clock_monotonic_ns(home->env.clock));
    if (!home->created && !home->was_clean && home->env.decisions != NULL)
        ql_decisions_note(
            home->env.decisions, home->env.clock,
            &(struct qlog_event){
                .kind = QLOG_EVENT_RECOVERED,
                .log = "",
                .path = home->env.path,
                .position = home->logs[0].tail,
                .text = "after an unclean stop",
            });
    QL_TELL(
        &home->env, RECOVERED, .path = home->env.path, .position = home->logs[0].tail,
        .text = home->created     ? "new"
                : home->was_clean ? "after a clean stop"
                                  : "after an unclean stop");
    return Q_OK;
}

/*
 * After a kill, the copy that was found may be on its way to the disk still. Files go because of what
 * it says: after power loss an older copy would look for them.
 */
static enum q_err
home_settle_super(struct ql_home *home)
{
    if (home->created || home->env.read_only) return Q_OK;
    struct ql_transfer flush = {
        .op = { .kind = QLOG_IO_FLUSH, .file = home->super_file, .buffer = -1 },
    };
    int rv = ql_transfer_wait(home->env.io, &flush);
    return rv < 0 ? home_fail(home, "superblock", rv, "flush the superblock") : Q_OK;
}

/*
 * After a kill, frames and names that were found may be on their way to the disk still. From here on
 * they count as durable, so they have to be. Older segments were durable before the last one began.
 */
static enum q_err
home_settle(struct ql_home *home, struct ql_log *log)
{
    const struct qlog_io_table *table = home->env.io->table;
    char path[QL_PATH_MAX];
    if (QL_PLANTED(recovery_unflushed)) return Q_OK;
    if (log->segments.count > 0) {
        struct ql_segment *last = log->segments.segments[log->segments.count - 1];
        struct ql_transfer flush = {
            .op = { .kind = QLOG_IO_FLUSH, .file = last->file, .buffer = -1 },
        };
        int rv = ql_transfer_wait(home->env.io, &flush);
        if (rv < 0)
            return Q_FAIL(
                q_err_from_errno(-rv),
                .path = ql_segment_path(&home->env, log->name, last->number, path), .sys = -rv,
                .what = "flush what was recovered");
    }
    int rv = table->sync_directory(home->env.io, home_path(home, log->name, path));
    return rv < 0 ? home_fail(home, log->name, rv, "flush a log's directory") : Q_OK;
}

enum q_err
ql_home_reap(struct ql_home *home, uint64_t now_ns)
{
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_advance(&home->logs[i], now_ns, false);
    home_trim_go_on(home);
    return ql_env_check(&home->env);
}

void
ql_home_write(struct ql_home *home, uint64_t now_ns)
{
    for (unsigned i = 0; i < home->log_count; i++) {
        ql_log_write(&home->logs[i], now_ns);
        ql_log_prepare(&home->logs[i], now_ns);
    }
    home_super_start(home, now_ns);
}

void
ql_home_trim_start(struct ql_home *home, struct ql_home_trim *trim)
{
    Q_ASSERT(home->trim == NULL);
    trim->writes = 0;
    home->trim = trim;
    bool something = false;
    for (unsigned i = 0; i < home->log_count; i++) {
        uint64_t *first = &home->super.logs[i].first;
        uint64_t drop_end = ql_log_drop_end(&home->logs[i], trim->before[i]);
        something = something || drop_end != home->logs[i].segments.segments[0]->base;
        /* What a pin kept the last time, it keeps in memory alone. */
        *first = q_max_u64(*first, drop_end);
        if (QL_PLANTED(drop_before_first) && ql_log_drop(&home->logs[i], *first) != Q_OK) return;
    }
    if (!something) trim->writes = TRIM_SUPER_WRITES;
}

/* When the superblock has said twice where the logs begin, so that no single copy is the only one to
 * know: a head whose dropping is cut short must not be met again. */
static void
home_trim_go_on(struct ql_home *home)
{
    struct ql_home_trim *trim = home->trim;
    if (trim == NULL || home->super_busy) return;
    enum q_err err = ql_env_check(&home->env);
    if (err == Q_OK && trim->writes < TRIM_SUPER_WRITES) return;
    for (unsigned i = 0; i < home->log_count && err == Q_OK; i++)
        err = ql_log_drop(&home->logs[i], home->super.logs[i].first);
    home->trim = NULL;
    trim->done(trim, err);
}

struct waited_trim {
    struct ql_home_trim trim;
    bool done;
    enum q_err err;
    struct q_fault fault;
};

static void
home_on_waited_trim(struct ql_home_trim *trim, enum q_err err)
{
    struct waited_trim *waited = q_container_of(trim, struct waited_trim, trim);
    waited->done = true;
    waited->err = err;
    waited->fault = *q_fault_last();
}

enum q_err
ql_home_trim(struct ql_home *home, const uint64_t *before)
{
    Q_TRY(ql_env_check(&home->env));
    struct waited_trim waited = { .trim.done = home_on_waited_trim };
    memcpy(waited.trim.before, before, home->log_count * sizeof(before[0]));
    ql_home_trim_start(home, &waited.trim);
    for (;;) {
        home_super_start(home, q_clock_monotonic_ns(home->env.clock));
        home_trim_go_on(home);
        if (waited.done) break;
        int rv = home->env.io->table->enter(home->env.io, Q_NS_PER_MS);
        if (rv < 0) ql_env_break(&home->env, "superblock", home->env.path, 0, -rv);
    }
    if (waited.err != Q_OK) q_fault_adopt(&waited.fault);
    return waited.err;
}

uint64_t
ql_home_deadline_ns(const struct ql_home *home)
{
    uint64_t deadline = UINT64_MAX;
    if (home->trim != NULL && !home->super_busy) return 0;
    /* As in home_super_start(): a deadline before it would act would only spin. */
    uint64_t super_ns =
        home->super_written_ns + (home_is_idle(home, false) ? SUPER_IDLE_NS : SUPER_BUSY_NS);
    for (unsigned i = 0; i < home->log_count; i++) {
        deadline = q_min_u64(deadline, ql_log_deadline_ns(&home->logs[i]));
        if (home->super.logs[i].durable != home->logs[i].durable && !home->super_busy)
            deadline = q_min_u64(deadline, super_ns);
    }
    return deadline;
}

enum q_err
ql_home_drain(struct ql_home *home)
{
    while (!home_is_idle(home, true)) {
        uint64_t now_ns = q_clock_monotonic_ns(home->env.clock);
        for (unsigned i = 0; i < home->log_count; i++) {
            ql_log_advance(&home->logs[i], now_ns, true);
            ql_log_finish(&home->logs[i]);
            ql_log_write(&home->logs[i], now_ns);
        }
        if (home->trim != NULL) home_super_start(home, now_ns);
        home_trim_go_on(home);
        int rv = home->env.io->table->enter(home->env.io, Q_NS_PER_MS);
        if (rv < 0) {
            ql_env_break(
                &home->env, home->logs[0].name, home->env.path, home->logs[0].written, -rv);
            break;
        }
    }
    /* A log that broke has answers left. All of them come before the first segment is freed: those of
     * the action log may pin segments of the message log. */
    uint64_t now_ns = q_clock_monotonic_ns(home->env.clock);
    for (unsigned i = 0; i < home->log_count; i++) {
        ql_log_advance(&home->logs[i], now_ns, false);
        ql_log_finish(&home->logs[i]);
    }
    return ql_env_check(&home->env);
}

static bool
home_is_idle(const struct ql_home *home, bool flushed)
{
    for (unsigned i = 0; i < home->log_count; i++)
        if (!ql_log_is_idle(&home->logs[i], flushed)) return false;
    return !home->super_busy && home->trim == NULL;
}

enum q_err
ql_home_close(struct ql_home *home)
{
    enum q_err err = Q_OK;
    if (home->started) {
        err = ql_home_drain(home);
        if (err == Q_OK) {
            home->super.clean = true;
            for (unsigned i = 0; i < home->log_count; i++) {
                home->super.logs[i].durable = home->logs[i].durable;
                home->super.logs[i].end = home->logs[i].tail;
                home->super.logs[i].chain = home->logs[i].chain;
                home->super.logs[i].incarnation = home->logs[i].incarnation;
                home->super.logs[i].zeroed = ql_log_zeroed(&home->logs[i]);
            }
            err = home_write_super(home);
        }
    }
    home_free(home);
    return err;
}

static void
home_free(struct ql_home *home)
{
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_fini(&home->logs[i]);
    if (home->super_buffer != NULL) ql_buffer_give(&home->env, home->super_buffer);
    ql_buffers_free(&home->env);
    ql_zeros_free(&home->env);
    if (home->env.io != NULL) {
        if (home->super_file >= 0) home->env.io->table->close(home->env.io, home->super_file);
        if (home->lock_file >= 0) home->env.io->table->close(home->env.io, home->lock_file);
        if (home->io_owned) home->env.io->table->destroy(home->env.io);
    }
    free(home->env.decisions);
    free(home);
}

/* Write the next copy and wait for it. Q_OK, or the directory is of no use. */
static enum q_err
home_write_super(struct ql_home *home)
{
    home_super_block(home);
    int rv = ql_transfer_wait(home->env.io, &home->super_write);
    if (rv < 0) return home_fail(home, "superblock", rv, "write the superblock");
    return Q_OK;
}

static void
home_super_block(struct ql_home *home)
{
    home->super.sequence++;
    home->super.written_ms = q_clock_wall_ms(home->env.clock);
    ql_super_encode(&home->super, home->super_buffer->data);
    home->super_write = (struct ql_transfer){
        .op = {
            .kind = QLOG_IO_WRITE,
            .durable = true,
            .file = home->super_file,
            .buffer = -1,
            .data = home->super_buffer->data,
            .length = QL_SUPER_SIZE,
            /* In turn, so that a torn write can hurt only the oldest copy. */
            .at = (home->super.sequence % QL_SUPER_COPIES) * QL_SUPER_SIZE,
        },
        .done = home_on_super,
    };
}

static bool
home_super_is_due(const struct ql_home *home, uint64_t now_ns)
{
    bool moved = home->super_news;
    for (unsigned i = 0; i < home->log_count; i++)
        moved = moved || home->super.logs[i].durable != home->logs[i].durable;
    uint64_t since = now_ns - home->super_written_ns;
    if (!moved || since < SUPER_IDLE_NS) return false;
    return since >= SUPER_BUSY_NS || home_is_idle(home, false);
}

/* Let the superblock follow the marks, if they moved and it is time, and say where logs begin. */
static void
home_super_start(struct ql_home *home, uint64_t now_ns)
{
    if (home->super_busy || home->env.broken != Q_OK) return;
    if (home->trim != NULL) {
        if (home->trim->writes >= TRIM_SUPER_WRITES) return;
        home->trim->writes++;
    } else if (!home_super_is_due(home, now_ns)) {
        return;
    }
    for (unsigned i = 0; i < home->log_count; i++) {
        home->super.logs[i].durable =
            QL_PLANTED(super_early) ? home->logs[i].written : home->logs[i].durable;
        home->super.logs[i].incarnation = home->logs[i].incarnation;
        home->super.logs[i].zeroed = ql_log_zeroed(&home->logs[i]);
    }
    home_super_block(home);
    home->super_news = false;
    home->super_busy = true;
    home->super_written_ns = now_ns;
    ql_transfer_submit(home->env.io, &home->super_write);
}

static void
home_on_super(struct ql_transfer *transfer)
{
    struct ql_home *home = q_container_of(transfer, struct ql_home, super_write);
    home->super_busy = false;
    if (transfer->error == 0) return;
    char path[QL_PATH_MAX];
    ql_env_break(
        &home->env, "superblock", home_path(home, "superblock", path), transfer->at,
        -transfer->error);
}
