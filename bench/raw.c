#include "raw.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qbase/clock.h>

enum {
    FILE_BYTES = 1024 * 1024 * 1024,
    PREPARE_BYTES = 1024 * 1024,
    FLUSH_ID = RAW_DEPTH,
};

struct raw {
    const struct raw_options *options;
    struct raw_result *result;
    int fd;
    struct io_uring ring;
    bool registered;
    uint8_t *frames; /* RAW_DEPTH of them */
    uint8_t *message;
    uint64_t at;
    unsigned under_way;
    bool busy[RAW_DEPTH];
    uint64_t started_ns[RAW_DEPTH];
    /* Written: the first `covered` by the flush that is under way. */
    uint64_t waiting_ns[RAW_FRAMES_MAX];
    unsigned waiting;
    unsigned covered;
    bool flushing;
    /* Answers of the disk that count later: see flush_cost_ns. Always in the order of their time. */
    struct {
        unsigned id;
        uint64_t due_ns;
    } late[RAW_DEPTH + 1];
    unsigned late_count;
};

static int raw_open(struct raw *raw);
static int raw_prepare_file(struct raw *raw);
static int raw_loop(struct raw *raw, uint64_t until_ns);
static bool raw_is_late(const struct raw *raw, unsigned id);
static int raw_wait(struct raw *raw);
static void raw_write(struct raw *raw, unsigned slot);
static void raw_flush(struct raw *raw);
static int raw_complete(struct raw *raw, unsigned id, int result, uint64_t now_ns);

static uint64_t
now(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

int
raw_new(const struct raw_options *options, struct raw **ret_raw)
{
    struct raw *raw = calloc(1, sizeof(*raw));
    if (raw == NULL) return -ENOMEM;
    raw->options = options;
    raw->fd = -1;
    int rv = io_uring_queue_init(
        4 * RAW_DEPTH, &raw->ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    if (rv < 0) {
        free(raw);
        return rv;
    }
    rv = raw_open(raw);
    if (rv < 0) {
        raw_free(raw);
        return rv;
    }
    *ret_raw = raw;
    return 0;
}

int
raw_run(struct raw *raw, uint64_t run_ns, struct raw_result *result)
{
    raw->result = result;
    struct usage start = usage_now();
    int rv = raw_loop(raw, start.wall_ns + run_ns);
    struct usage usage = usage_since(&start);
    usage_add(&result->usage, &usage);
    return rv;
}

void
raw_free(struct raw *raw)
{
    io_uring_queue_exit(&raw->ring);
    if (raw->frames != NULL)
        (void)munmap(raw->frames, (size_t)RAW_DEPTH * raw->options->frame_bytes);
    free(raw->message);
    if (raw->fd >= 0) {
        (void)close(raw->fd);
        (void)unlink(raw->options->path);
    }
    free(raw);
}

static int
raw_open(struct raw *raw)
{
    size_t size = (size_t)RAW_DEPTH * raw->options->frame_bytes;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return -ENOMEM;
    raw->frames = memory;
    raw->message = malloc(raw->options->message_bytes);
    if (raw->message == NULL) return -ENOMEM;
    memset(raw->message, 'm', raw->options->message_bytes);
    memset(raw->frames, 1, size);
    raw->fd = open(raw->options->path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (raw->fd < 0) return -errno;
    int rv = raw_prepare_file(raw);
    if (rv < 0) return rv;
    rv = io_uring_register_files(&raw->ring, &raw->fd, 1);
    if (rv < 0) return rv;
    /* As the log does it: refused beyond the locked-memory limit, and then it goes without. */
    struct iovec vector = { .iov_base = raw->frames, .iov_len = size };
    raw->registered = io_uring_register_buffers(&raw->ring, &vector, 1) == 0;
    return 0;
}

static int
raw_prepare_file(struct raw *raw)
{
    void *block =
        mmap(NULL, PREPARE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return -ENOMEM;
    int rv = 0;
    for (off_t at = 0; rv == 0 && at < FILE_BYTES; at += PREPARE_BYTES)
        if (pwrite(raw->fd, block, PREPARE_BYTES, at) != PREPARE_BYTES) rv = -EIO;
    if (rv == 0 && fsync(raw->fd) != 0) rv = -errno;
    (void)munmap(block, PREPARE_BYTES);
    return rv;
}

static int
raw_loop(struct raw *raw, uint64_t until_ns)
{
    for (;;) {
        uint64_t now_ns = now();
        for (unsigned i = 0; i < RAW_DEPTH && now_ns < until_ns; i++)
            if (!raw->busy[i] && raw->waiting + RAW_DEPTH < RAW_FRAMES_MAX) raw_write(raw, i);
        if (raw->waiting > 0 && !raw->flushing) raw_flush(raw);
        if (raw->under_way == 0) return 0;
        int rv = raw_wait(raw);
        if (rv < 0) return rv;
        now_ns = now();
        struct io_uring_cqe *cqe;
        while (io_uring_peek_cqe(&raw->ring, &cqe) == 0) {
            unsigned id = (unsigned)io_uring_cqe_get_data64(cqe);
            int result = cqe->res;
            io_uring_cqe_seen(&raw->ring, cqe);
            if (result >= 0 && raw_is_late(raw, id)) {
                raw->late[raw->late_count].id = id;
                raw->late[raw->late_count++].due_ns = now_ns + raw->options->flush_cost_ns;
                continue;
            }
            rv = raw_complete(raw, id, result, now_ns);
            if (rv < 0) return rv;
        }
        while (raw->late_count > 0 && raw->late[0].due_ns <= now_ns) {
            unsigned id = raw->late[0].id;
            raw->late_count--;
            memmove(raw->late, raw->late + 1, raw->late_count * sizeof(raw->late[0]));
            int bytes = id == FLUSH_ID ? 0 : (int)raw->options->frame_bytes;
            rv = raw_complete(raw, id, bytes, now_ns);
            if (rv < 0) return rv;
        }
    }
}

static bool
raw_is_late(const struct raw *raw, unsigned id)
{
    bool flushes = id == FLUSH_ID ||
                   (raw->options->flushed && raw->options->frame_bytes <= RAW_DSYNC_BYTES_MAX);
    return flushes && raw->options->flush_cost_ns > 0;
}

/* Until the disk or the next late answer. */
static int
raw_wait(struct raw *raw)
{
    int rv;
    if (raw->late_count == 0) {
        rv = io_uring_submit_and_wait(&raw->ring, 1);
    } else {
        uint64_t now_ns = now();
        uint64_t due_ns = raw->late[0].due_ns;
        uint64_t wait_ns = due_ns > now_ns ? due_ns - now_ns : 1;
        struct __kernel_timespec time = {
            .tv_sec = (int64_t)(wait_ns / Q_NS_PER_S),
            .tv_nsec = (long long)(wait_ns % Q_NS_PER_S),
        };
        struct io_uring_cqe *cqe;
        rv = io_uring_submit_and_wait_timeout(&raw->ring, &cqe, 1, &time, NULL);
    }
    return rv < 0 && rv != -EINTR && rv != -ETIME ? rv : 0;
}

static void
raw_write(struct raw *raw, unsigned slot)
{
    uint32_t size = raw->options->frame_bytes;
    uint8_t *frame = raw->frames + (size_t)slot * size;
    raw->started_ns[slot] = now();
    for (uint32_t at = 0; at < size; at += raw->options->message_bytes)
        memcpy(frame + at, raw->message, q_min_u64(raw->options->message_bytes, size - at));
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
    if (raw->registered)
        io_uring_prep_write_fixed(sqe, 0, frame, size, raw->at, 0);
    else
        io_uring_prep_write(sqe, 0, frame, size, raw->at);
    if (raw->options->flushed && size <= RAW_DSYNC_BYTES_MAX) sqe->rw_flags = RWF_DSYNC;
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, slot);
    raw->busy[slot] = true;
    raw->under_way++;
    raw->at = raw->at + 2 * (uint64_t)size <= FILE_BYTES ? raw->at + size : 0;
}

static void
raw_flush(struct raw *raw)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
    io_uring_prep_fsync(sqe, 0, IORING_FSYNC_DATASYNC);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data64(sqe, FLUSH_ID);
    raw->flushing = true;
    raw->covered = raw->waiting;
    raw->under_way++;
}

static int
raw_complete(struct raw *raw, unsigned id, int result, uint64_t now_ns)
{
    const struct raw_options *options = raw->options;
    raw->under_way--;
    if (result < 0) return result;
    if (id == FLUSH_ID) {
        raw->flushing = false;
        for (unsigned i = 0; i < raw->covered; i++)
            q_hist_record(&raw->result->latency, now_ns - raw->waiting_ns[i], 1);
        raw->result->bytes += (uint64_t)raw->covered * options->frame_bytes;
        raw->waiting -= raw->covered;
        memmove(
            raw->waiting_ns, raw->waiting_ns + raw->covered,
            raw->waiting * sizeof(raw->waiting_ns[0]));
        return 0;
    }
    if ((uint32_t)result != options->frame_bytes) return -EIO;
    raw->busy[id] = false;
    if (options->flushed && options->frame_bytes > RAW_DSYNC_BYTES_MAX) {
        raw->waiting_ns[raw->waiting++] = raw->started_ns[id];
        return 0;
    }
    q_hist_record(&raw->result->latency, now_ns - raw->started_ns[id], 1);
    raw->result->bytes += options->frame_bytes;
    return 0;
}
