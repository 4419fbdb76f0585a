#include "faults.h"

#include <errno.h>
#include <stdlib.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>

#include "format/layout.h"

/* An operation that goes through, and comes back with another result. */
struct faulty_op {
    struct qlog_io_op *op;
    qlog_io_done_fn *done;
    uint32_t length; /* as the caller knows it */
    int64_t result;  /* 0: what the io behind says */
    struct faults *faults;
    struct faulty_op *next;
};

static const struct qlog_io_table fault_table;
static int fault_error(const struct faults *faults);
static void fault_alter(struct faults *faults, struct qlog_io_op *op);
static void fault_on_altered(struct qlog_io_op *op);

/* The hook of fault_on_altered(), which knows its operation alone. */
static struct faults *altering;

void
faults_init(struct faults *faults, struct qlog_io *behind, const struct fault_plan *plan)
{
    *faults = (struct faults){
        .front = { .io = { .table = &fault_table } },
        .behind = behind,
        .plan = *plan,
    };
    q_list_init(&faults->failed);
}

const char *
fault_site_text(enum fault_site site)
{
    static const char *const texts[] = {
#define FAULT_SITE_TEXT(name, text, can_be_short) text,
        FAULT_SITE_LIST(FAULT_SITE_TEXT)
#undef FAULT_SITE_TEXT
    };
    return texts[site];
}

const char *
fault_kind_text(enum fault_kind kind)
{
    static const char *const texts[FAULT_KINDS] = {
        "eio", "eio-for-ever", "eio-but-done", "enospc", "enospc-for-ever", "eintr", "short",
    };
    return texts[kind];
}

bool
fault_makes_sense(enum fault_site site, enum fault_kind kind)
{
    static const bool can_be_short[] = {
#define FAULT_SITE_SHORT(name, text, can_be_short) can_be_short,
        FAULT_SITE_LIST(FAULT_SITE_SHORT)
#undef FAULT_SITE_SHORT
    };
    bool operation = site == FAULT_READ || site == FAULT_WRITE || site == FAULT_FLUSH;
    switch (kind) {
    case FAULT_SHORT:
        return can_be_short[site];
    case FAULT_EINTR:
        return operation;
    case FAULT_EIO_BUT_DONE:
        return site == FAULT_WRITE || site == FAULT_FLUSH;
    case FAULT_ENOSPC:
    case FAULT_ENOSPC_FOR_EVER:
        return site == FAULT_OPEN || site == FAULT_ALLOCATE || site == FAULT_WRITE ||
               site == FAULT_MAKE_DIRECTORY;
    default:
        return true;
    }
}

static struct faults *
faults_of(struct qlog_io *io)
{
    struct simdisk_front *front = q_container_of(io, struct simdisk_front, io);
    return q_container_of(front, struct faults, front);
}

/* Count a call. True: this one is to fail. */
static bool
fault_hits(struct faults *faults, enum fault_site site)
{
    if (site != faults->plan.site) return false;
    faults->calls++;
    bool for_ever =
        faults->plan.kind == FAULT_EIO_FOR_EVER || faults->plan.kind == FAULT_ENOSPC_FOR_EVER;
    if (faults->calls != faults->plan.number && !(for_ever && faults->calls > faults->plan.number))
        return false;
    faults->front.fired = true;
    return true;
}

static int
fault_error(const struct faults *faults)
{
    switch (faults->plan.kind) {
    case FAULT_ENOSPC:
    case FAULT_ENOSPC_FOR_EVER:
        return -ENOSPC;
    case FAULT_EINTR:
        return -EINTR;
    default:
        return -EIO;
    }
}

/* --- Calls. */

#define FAULT_CALL(io, site, call)                                                                 \
    struct faults *faults = faults_of(io);                                                         \
    if (fault_hits(faults, FAULT_##site)) return fault_error(faults);                              \
    struct qlog_io *behind = faults->behind;                                                       \
    fault_memory_pause(1);                                                                         \
    int rv = behind->table->call;                                                                  \
    fault_memory_pause(-1);                                                                        \
    return rv

static int
fault_open(struct qlog_io *io, const char *path, unsigned flags)
{
    struct faults *faults = faults_of(io);
    if (fault_hits(faults, FAULT_OPEN)) return fault_error(faults);
    fault_memory_pause(1);
    int file = faults->behind->table->open(faults->behind, path, flags);
    fault_memory_pause(-1);
    if (file >= 0 && file < FAULT_FILES_MAX)
        faults->derived[file] = strstr(path, "/index-") != NULL;
    return file;
}

static int
fault_size(struct qlog_io *io, int file, uint64_t *ret_size)
{
    FAULT_CALL(io, SIZE, size(behind, file, ret_size));
}

static int
fault_allocate(struct qlog_io *io, int file, uint64_t size)
{
    FAULT_CALL(io, ALLOCATE, allocate(behind, file, size));
}

static int
fault_lock(struct qlog_io *io, int file)
{
    FAULT_CALL(io, LOCK, lock(behind, file));
}

static int
fault_make_directory(struct qlog_io *io, const char *path)
{
    FAULT_CALL(io, MAKE_DIRECTORY, make_directory(behind, path));
}

static int
fault_sync_directory(struct qlog_io *io, const char *path)
{
    FAULT_CALL(io, SYNC_DIRECTORY, sync_directory(behind, path));
}

static int
fault_list(struct qlog_io *io, const char *path, qlog_io_list_fn *each, void *context)
{
    /* The callback is the program's: its memory counts. */
    struct faults *faults = faults_of(io);
    if (fault_hits(faults, FAULT_LIST)) return fault_error(faults);
    return faults->behind->table->list(faults->behind, path, each, context);
}

static int
fault_unlink(struct qlog_io *io, const char *path)
{
    FAULT_CALL(io, UNLINK, unlink(behind, path));
}

static int
fault_space(struct qlog_io *io, const char *path, uint64_t *ret_free, uint64_t *ret_total)
{
    FAULT_CALL(io, SPACE, space(behind, path, ret_free, ret_total));
}

static int
fault_register_buffer(struct qlog_io *io, void *data, size_t size)
{
    FAULT_CALL(io, REGISTER_BUFFER, register_buffer(behind, data, size));
}

static const uint8_t *
fault_map(struct qlog_io *io, int file, uint64_t size, int *ret_error)
{
    struct faults *faults = faults_of(io);
    if (!fault_hits(faults, FAULT_MAP))
        return faults->behind->table->map(faults->behind, file, size, ret_error);
    *ret_error = fault_error(faults);
    return NULL;
}

static void
fault_unmap(struct qlog_io *io, const uint8_t *data, uint64_t size)
{
    struct faults *faults = faults_of(io);
    faults->behind->table->unmap(faults->behind, data, size);
}

static void
fault_close(struct qlog_io *io, int file)
{
    struct faults *faults = faults_of(io);
    faults->behind->table->close(faults->behind, file);
}

static void
fault_wake(struct qlog_io *io)
{
    struct faults *faults = faults_of(io);
    faults->behind->table->wake(faults->behind);
}

static void
fault_destroy(struct qlog_io *io)
{
    struct faults *faults = faults_of(io);
    faults->behind->table->destroy(faults->behind);
}

/* --- Operations. */

static enum fault_site
op_site(const struct qlog_io_op *op)
{
    if (op->kind == QLOG_IO_FLUSH) return FAULT_FLUSH;
    return op->kind == QLOG_IO_READ ? FAULT_READ : FAULT_WRITE;
}

/* Frames and superblock copies: nothing may follow when they are not there. */
static bool
op_is_vital(const struct faults *faults, const struct qlog_io_op *op)
{
    if (op->file < FAULT_FILES_MAX && faults->derived[op->file]) return false;
    if (op->kind == QLOG_IO_FLUSH) return true;
    if (op->kind == QLOG_IO_READ || op->length < QL_FRAME_HEADER_SIZE) return false;
    uint32_t magic = q_load_le32((const uint8_t *)op->data + QL_FRAME_MAGIC_AT);
    return magic == QL_FRAME_MAGIC || magic == QL_SUPER_MAGIC;
}

static void
fault_submit(struct qlog_io *io, struct qlog_io_op *op)
{
    struct faults *faults = faults_of(io);
    if (fault_hits(faults, op_site(op))) {
        if (faults->plan.kind != FAULT_SHORT && faults->plan.kind != FAULT_EIO_BUT_DONE) {
            op->result = fault_error(faults);
            q_list_push_back(&faults->failed, &op->link);
            return;
        }
        fault_alter(faults, op);
    }
    fault_memory_pause(1);
    faults->behind->table->submit(faults->behind, op);
    fault_memory_pause(-1);
}

static void
fault_alter(struct faults *faults, struct qlog_io_op *op)
{
    fault_memory_pause(1);
    struct faulty_op *altered = malloc(sizeof(*altered));
    fault_memory_pause(-1);
    Q_ASSERT(altered != NULL);
    *altered = (struct faulty_op){
        .op = op,
        .done = op->done,
        .length = op->length,
        .result = faults->plan.kind == FAULT_SHORT ? 0 : -EIO,
        .faults = faults,
        .next = faults->altered,
    };
    faults->altered = altered;
    altering = faults;
    op->done = fault_on_altered;
    if (faults->plan.kind == FAULT_SHORT)
        op->length =
            (uint32_t)q_max_u64(op->length / 2 / MEDIA_SECTOR * MEDIA_SECTOR, MEDIA_SECTOR);
}

static void
fault_on_altered(struct qlog_io_op *op)
{
    struct faulty_op **at = &altering->altered;
    while ((*at)->op != op)
        at = &(*at)->next;
    struct faulty_op *altered = *at;
    *at = altered->next;
    op->length = altered->length;
    if (altered->result != 0) {
        op->result = altered->result;
        if (op_is_vital(altered->faults, op)) altered->faults->front.must_break = true;
    }
    qlog_io_done_fn *done = altered->done;
    free(altered);
    done(op);
}

static int
fault_enter(struct qlog_io *io, uint64_t wait_ns)
{
    struct faults *faults = faults_of(io);
    struct q_list failed;
    q_list_init(&failed);
    q_list_splice_back(&failed, &faults->failed);
    if (!q_list_is_empty(&failed)) wait_ns = 0;
    struct q_list *link;
    while ((link = q_list_pop_front(&failed)) != NULL) {
        struct qlog_io_op *op = q_container_of(link, struct qlog_io_op, link);
        if (op->result != -EINTR && op_is_vital(faults, op)) faults->front.must_break = true;
        op->done(op);
    }
    return faults->behind->table->enter(faults->behind, wait_ns);
}

static const struct qlog_io_table fault_table = {
    .name = "faults",
    .submit = fault_submit,
    .enter = fault_enter,
    .wake = fault_wake,
    .register_buffer = fault_register_buffer,
    .destroy = fault_destroy,
    .open = fault_open,
    .close = fault_close,
    .size = fault_size,
    .allocate = fault_allocate,
    .lock = fault_lock,
    .map = fault_map,
    .unmap = fault_unmap,
    .make_directory = fault_make_directory,
    .sync_directory = fault_sync_directory,
    .list = fault_list,
    .unlink = fault_unlink,
    .space = fault_space,
};
