#include "segment/home.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <qbase/assert.h>

#include "planted.h"
#include "segment/decisions.h"
#include "segment/dir.h"
#include "segment/identify.h"
#include "segment/superblock.h"

enum {
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
static void home_default_segment_size(struct ql_home *home);
static enum q_err home_need_super(
    struct ql_home *home, const char *const *names, unsigned name_count, bool create);
static enum q_err home_find_super(struct ql_home *home);
static enum q_err home_read_super(struct ql_home *home);
static enum q_err home_adopt(
    struct ql_home *home, const char *const *names, unsigned name_count, enum q_err without);
static enum q_err home_create(struct ql_home *home, const char *const *names, unsigned name_count);
static enum q_err home_check_names(
    struct ql_home *home, const char *const *names, unsigned name_count);
static enum q_err home_open_logs(struct ql_home *home);
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
    enum q_err err = ql_dir_open(&home->env, options->create);
    if (err == Q_OK) home_default_segment_size(home);
    if (err == Q_OK) err = ql_dir_check_ours(&home->env, names, name_count, options->create);
    if (err == Q_OK) err = ql_dir_lock(&home->env, &home->lock_file);
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
    enum q_err err = ql_dir_open(&home->env, false);
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
    struct ql_super super;
    bool read =
        home->super_file >= 0 &&
        ql_superblock_read(&home->env, home->super_file, home->super_buffer->data, &super) == Q_OK;
    return read ? super.logs[log].first : home->super.logs[log].first;
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
    static const char *const delay_names[] = { "delay", "dispatch" };
    static const char *const log_names[] = { "log" };
    enum q_err err = home_read_super(home);
    if (err == Q_NOT_FOUND || err == Q_E_CORRUPT) err = home_adopt(home, store_names, 2, err);
    if (err == Q_NOT_FOUND || err == Q_E_CORRUPT) err = home_adopt(home, delay_names, 2, err);
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

/* As ql_superblock_read(). */
static enum q_err
home_read_super(struct ql_home *home)
{
    const struct qlog_io_table *table = home->env.io->table;
    char path[QL_PATH_MAX];
    ql_dir_path(&home->env, "superblock", path);
    if (home->super_file < 0) {
        home->super_file =
            table->open(home->env.io, path, home->env.read_only ? QLOG_IO_OPEN_READ : 0);
        if (home->super_file == -ENOENT) return Q_NOT_FOUND;
        if (home->super_file < 0)
            return ql_dir_fail(&home->env, "superblock", home->super_file, "open the superblock");
    }
    Q_TRY(ql_superblock_read(&home->env, home->super_file, home->super_buffer->data, &home->super));
    home->super_found = true;
    memcpy(home->env.store_id, home->super.store_id, sizeof(home->env.store_id));
    return Q_OK;
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
        int rv = table->make_directory(home->env.io, ql_dir_path(&home->env, names[i], path));
        if (rv < 0 && rv != -EEXIST)
            return ql_dir_fail(&home->env, names[i], rv, "create a log's directory");
    }
    if (home->super_file < 0)
        home->super_file = table->open(
            home->env.io, ql_dir_path(&home->env, "superblock", path), QLOG_IO_OPEN_CREATE);
    if (home->super_file < 0)
        return ql_dir_fail(&home->env, "superblock", home->super_file, "create the superblock");
    int rv =
        table->allocate(home->env.io, home->super_file, (uint64_t)QL_SUPER_COPIES * QL_SUPER_SIZE);
    if (rv < 0) return ql_dir_fail(&home->env, "superblock", rv, "allocate the superblock");
    rv = table->sync_directory(home->env.io, home->env.path);
    if (rv == 0) rv = ql_dir_sync_parent(&home->env);
    if (rv < 0) return ql_dir_fail(&home->env, "", rv, "flush the data directory");
    QL_TELL(&home->env, CREATED, .path = home->env.path, .text = "new directory");
    return Q_OK;
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
        Q_TRY(ql_log_open_segments(&home->logs[i], home->super.logs[i].first));
    }
    return Q_OK;
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
    for (unsigned i = 0; i < name_count && !found; i++)
        found = ql_segments_peek(&home->env, names[i], home->env.store_id);
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
    ql_dir_path(&home->env, "superblock", path);
    if (home->super_file < 0 && !home->env.read_only)
        home->super_file = home->env.io->table->open(home->env.io, path, QLOG_IO_OPEN_CREATE);
    if (home->super_file < 0 && !home->env.read_only)
        return ql_dir_fail(&home->env, "superblock", home->super_file, "create the superblock");
    int rv = 0;
    if (!home->env.read_only && !QL_PLANTED(adopted_unflushed))
        rv = home->env.io->table->sync_directory(home->env.io, home->env.path);
    if (rv < 0) return ql_dir_fail(&home->env, "", rv, "flush the data directory");
    QL_TELL(
        &home->env, ROT, .path = path, .bytes = (uint64_t)QL_SUPER_COPIES * QL_SUPER_SIZE,
        .text = "no copy of the superblock is readable; recovering from the logs alone");
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
            Q_E_CORRUPT, .path = ql_dir_path(&home->env, log->name, path),
            .position = (int64_t)marks->first,
            .what = q_text(
                "all files of the %s log are missing; it had flushed bytes %" PRIu64 " to %" PRIu64,
                log->name, marks->first, marks->durable),
            .hint = "mount or restore them, then start again");
    }
    Q_TRY(ql_recover(recover));
    /* What is written next names the frame before it, which may be there when the disk is well again. */
    if (recover->unread > 0)
        return Q_FAIL(
            Q_E_IO, .path = home->env.path, .position = (int64_t)recover->unread,
            .what = q_text("the end of the %s log can't be read", log->name),
            .hint = QL_UNREADABLE_HINT);
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
            ql_segment_discard(
                &home->env, log->name, segment->number,
                "a segment behind the end: it was never durable");
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
    return rv < 0 ? ql_dir_fail(&home->env, "superblock", rv, "flush the superblock") : Q_OK;
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
    int rv = table->sync_directory(home->env.io, ql_dir_path(&home->env, log->name, path));
    return rv < 0 ? ql_dir_fail(&home->env, log->name, rv, "flush a log's directory") : Q_OK;
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
    home_trim_go_on(home);
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_end(&home->logs[i]);
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
    if (rv < 0) return ql_dir_fail(&home->env, "superblock", rv, "write the superblock");
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
        &home->env, "superblock", ql_dir_path(&home->env, "superblock", path), transfer->at,
        -transfer->error);
}
