/*
 * write-paths: which way to the disk costs least? For the decision in storage/src/segment/log.c
 * (direct writes, flushed one by one up to 128 KiB and by one flush per group above).
 *
 * A file of pre-written blocks is overwritten in frames, each filled by a copy before it is sent.
 * Flushed: the next frame's place is free when the frame is on the media. Each row is one way, one
 * frame size, one depth, for a while; rows of one round run one after another, rounds repeat, and
 * the median round is printed. System CPU is the whole machine's, kernel threads included.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <qbase/hist.h>
#include <qbase/opts.h>
#include <qbase/text.h>

#include "usage.h"

enum {
    DEPTH_MAX = 8,
    FRAME_MAX = 1024 * 1024,
    ROUNDS_MAX = 15,
    MESSAGE_BYTES = 1024,
};

enum way {
    WAY_PWRITE,       /* through the page cache; fdatasync when flushed */
    WAY_URING_BUFFER, /* the same through the ring */
    WAY_URING_DIRECT, /* O_DIRECT, registered; one flush per group */
    WAY_URING_DSYNC,  /* O_DIRECT, registered; each write its own RWF_DSYNC */
    WAY_MMAP,         /* memcpy into a map; fdatasync when flushed */
};

static const char *const way_names[] = { "pwrite", "uring-buf", "uring-direct", "uring-dsync",
                                         "mmap" };

struct row {
    enum way way;
    uint32_t frame;
    unsigned depth;
    bool flushed;
};

struct figure {
    double bytes_per_s;
    double cpu_per_gb;
    double p50_us;
    double p999_us;
};

struct bench {
    const char *path;
    uint64_t file_size;
    uint64_t run_ns;
    uint8_t *memory; /* DEPTH_MAX frames, aligned */
    uint8_t message[MESSAGE_BYTES];
};

struct run {
    const struct bench *bench;
    struct row row;
    int fd;
    struct io_uring ring;
    bool ring_open;
    uint64_t at;
    uint64_t bytes;
    uint64_t started_ns[DEPTH_MAX];
    struct q_hist *latency;
};

static int run_row(const struct bench *bench, struct row row, struct figure *ret_figure);
static int run_blocking(struct run *run, uint64_t until_ns);
static int run_ring(struct run *run, uint64_t until_ns);
static void fill(const struct bench *bench, uint8_t *frame, uint32_t size);
static int prepare_file(const struct bench *bench);

static uint64_t
now_ns(void)
{
    struct timespec time;
    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static int
compare_figures(const void *a, const void *b)
{
    double x = ((const struct figure *)a)->bytes_per_s;
    double y = ((const struct figure *)b)->bytes_per_s;
    return (x > y) - (x < y);
}

int
main(int argc, char **argv)
{
    const char *directory = ".";
    uint64_t size = 2ull << 30;
    uint64_t run_time = 1000000000;
    uint64_t rounds = 3;
    const char *format = "text";
    const struct q_opt options[] = {
        { "dir", 0, Q_OPT_TEXT, &directory, "D", "where the file is made (and removed)", 0, 0 },
        { "bytes", 0, Q_OPT_SIZE, &size, "N", "size of the file", 64 << 20, 0 },
        { "seconds", 0, Q_OPT_DURATION, &run_time, "S", "of each row and round", 1, 0 },
        { "rounds", 0, Q_OPT_NUMBER, &rounds, "N", "the median is printed", 1, ROUNDS_MAX },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json", 0, 0 },
    };
    const size_t option_count = sizeof(options) / sizeof(options[0]);
    struct q_opts_result parsed;
    if (q_opts_parse(options, option_count, argc, argv, &parsed) != Q_OK) {
        (void)fprintf(stderr, "write-paths: %s\n", parsed.error);
        return 2;
    }
    if (parsed.help) {
        q_opts_print_help(stdout, options, option_count);
        return 0;
    }
    (void)fprintf(
        stderr,
        "question: which way to the disk costs least, flushed and not?\n"
        "estimate: direct writes beat the page cache by 2 in speed and by 3 in CPU; RWF_DSYNC "
        "wins up to 128 KiB, one flush per group above\n");

    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/write-paths.%d", directory, (int)getpid());
    struct bench bench = { .path = path, .file_size = size, .run_ns = run_time };
    memset(bench.message, 0x5a, sizeof(bench.message));
    void *memory = mmap(
        NULL, (size_t)DEPTH_MAX * FRAME_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
        -1, 0);
    if (memory == MAP_FAILED || prepare_file(&bench) != 0) {
        (void)fprintf(stderr, "write-paths: %s: %s\n", path, strerror(errno));
        (void)unlink(path);
        return 1;
    }
    bench.memory = memory;

    struct row rows[128];
    unsigned row_count = 0;
    static const uint32_t frames[] = { 4096, 16384, 65536, 262144, 1048576 };
    for (unsigned flushed = 0; flushed < 2; flushed++)
        for (unsigned f = 0; f < sizeof(frames) / sizeof(frames[0]); f++)
            for (unsigned way = WAY_PWRITE; way <= WAY_MMAP; way++)
                for (unsigned depth = 1; depth <= 4; depth *= 2) {
                    bool ring = way != WAY_PWRITE && way != WAY_MMAP;
                    if ((!ring && depth > 1) || (way == WAY_URING_DSYNC && flushed == 0)) continue;
                    rows[row_count++] =
                        (struct row){ (enum way)way, frames[f], depth, flushed == 1 };
                }
    static struct figure figures[128][ROUNDS_MAX];
    int failed = 0;
    for (unsigned round = 0; round < rounds && !failed; round++)
        for (unsigned i = 0; i < row_count && !failed; i++)
            failed = run_row(&bench, rows[i], &figures[i][round]);
    (void)unlink(path);
    if (failed) {
        (void)fprintf(stderr, "write-paths: %s\n", strerror(failed));
        return 1;
    }
    bool json = strcmp(format, "json") == 0;
    if (!json)
        (void)printf(
            "flushed  frame KiB  way           depth      MB/s  system s/GB   p50 us  p99.9 us\n");
    for (unsigned i = 0; i < row_count; i++) {
        qsort(figures[i], rounds, sizeof(struct figure), compare_figures);
        const struct figure *figure = &figures[i][rounds / 2];
        (void)printf(
            json ? "{\"flushed\":%s,\"frame_kib\":%u,\"way\":\"%s\",\"depth\":%u,\"mb_per_s\":%.0f,"
                   "\"system_s_per_gb\":%.3f,\"p50_us\":%.0f,\"p999_us\":%.0f}\n"
                 : "%-7s  %9u  %-12s  %5u  %8.0f  %11.3f  %7.0f  %8.0f\n",
            rows[i].flushed ? (json ? "true" : "yes") : (json ? "false" : "no"),
            rows[i].frame / 1024, way_names[rows[i].way], rows[i].depth, figure->bytes_per_s / 1e6,
            figure->cpu_per_gb, figure->p50_us, figure->p999_us);
    }
    return 0;
}

static int
prepare_file(const struct bench *bench)
{
    int fd = open(bench->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    static uint8_t zeros[FRAME_MAX];
    for (uint64_t at = 0; at < bench->file_size; at += FRAME_MAX)
        if (pwrite(fd, zeros, FRAME_MAX, (off_t)at) != FRAME_MAX) return -1;
    int rv = fsync(fd);
    (void)close(fd);
    return rv;
}

static int
run_row(const struct bench *bench, struct row row, struct figure *ret_figure)
{
    struct run run = { .bench = bench, .row = row };
    bool direct = row.way == WAY_URING_DIRECT || row.way == WAY_URING_DSYNC;
    run.fd = open(bench->path, O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0));
    run.latency = calloc(1, sizeof(*run.latency));
    if (run.fd < 0 || run.latency == NULL) return errno;
    q_hist_init(run.latency);
    /* A recycled segment is cold: no row profits from what the one before left in the cache. */
    (void)posix_fadvise(run.fd, 0, 0, POSIX_FADV_DONTNEED);
    bool ring = row.way != WAY_PWRITE && row.way != WAY_MMAP;
    int rv = 0;
    if (ring) {
        rv = -io_uring_queue_init(
            64, &run.ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
        struct iovec vector = { bench->memory, (size_t)DEPTH_MAX * FRAME_MAX };
        if (rv == 0 && direct) rv = -io_uring_register_buffers(&run.ring, &vector, 1);
        run.ring_open = rv == 0;
    }
    struct usage started_usage = usage_now();
    uint64_t started = now_ns();
    if (rv == 0)
        rv = ring ? run_ring(&run, started + bench->run_ns)
                  : run_blocking(&run, started + bench->run_ns);
    double seconds = (double)(now_ns() - started) / 1e9;
    if (!row.flushed) (void)fdatasync(run.fd);
    struct usage usage = usage_since(&started_usage);
    double gigabytes = (double)run.bytes / 1e9;
    *ret_figure = (struct figure){
        .bytes_per_s = (double)run.bytes / seconds,
        .cpu_per_gb = gigabytes > 0 ? (double)usage.system_ns / 1e9 / gigabytes : 0,
        .p50_us = (double)q_hist_quantile(run.latency, 0.5) / 1e3,
        .p999_us = (double)q_hist_quantile(run.latency, 0.999) / 1e3,
    };
    if (run.ring_open) io_uring_queue_exit(&run.ring);
    free(run.latency);
    (void)close(run.fd);
    return rv;
}

static int
run_blocking(struct run *run, uint64_t until_ns)
{
    const struct bench *bench = run->bench;
    uint8_t *map = NULL;
    if (run->row.way == WAY_MMAP) {
        map = mmap(NULL, bench->file_size, PROT_READ | PROT_WRITE, MAP_SHARED, run->fd, 0);
        if (map == MAP_FAILED) return errno;
    }
    uint64_t now = now_ns();
    while (now < until_ns) {
        uint64_t begun = now;
        if (run->at + run->row.frame > bench->file_size) run->at = 0;
        uint8_t *frame = map == NULL ? bench->memory : map + run->at;
        fill(bench, frame, run->row.frame);
        if (map == NULL &&
            pwrite(run->fd, frame, run->row.frame, (off_t)run->at) != (ssize_t)run->row.frame)
            return errno;
        if (run->row.flushed && fdatasync(run->fd) != 0) return errno;
        run->at += run->row.frame;
        run->bytes += run->row.frame;
        now = now_ns();
        q_hist_record(run->latency, now - begun, 1);
    }
    if (map != NULL) (void)munmap(map, bench->file_size);
    return 0;
}

/* Operations carry their slot; a flush carries FLUSH and covers the writes complete before it. */
enum {
    FLUSH = 1000
};

static int
run_ring(struct run *run, uint64_t until_ns)
{
    const struct bench *bench = run->bench;
    bool group = run->row.flushed && run->row.way != WAY_URING_DSYNC;
    bool direct = run->row.way != WAY_URING_BUFFER;
    unsigned free_slots[DEPTH_MAX];
    unsigned free_count = 0;
    unsigned written[DEPTH_MAX];
    unsigned written_count = 0;
    unsigned covered[DEPTH_MAX];
    unsigned covered_count = 0;
    unsigned under_way = 0;
    bool flushing = false;
    for (unsigned i = 0; i < run->row.depth; i++)
        free_slots[free_count++] = i;
    while (now_ns() < until_ns || under_way > 0) {
        while (free_count > 0 && now_ns() < until_ns) {
            unsigned slot = free_slots[--free_count];
            uint8_t *frame = bench->memory + (size_t)slot * FRAME_MAX;
            run->started_ns[slot] = now_ns();
            fill(bench, frame, run->row.frame);
            if (run->at + run->row.frame > bench->file_size) run->at = 0;
            struct io_uring_sqe *sqe = io_uring_get_sqe(&run->ring);
            if (direct)
                io_uring_prep_write_fixed(sqe, run->fd, frame, run->row.frame, run->at, 0);
            else
                io_uring_prep_write(sqe, run->fd, frame, run->row.frame, run->at);
            if (run->row.way == WAY_URING_DSYNC) sqe->rw_flags = RWF_DSYNC;
            io_uring_sqe_set_data64(sqe, slot);
            run->at += run->row.frame;
            under_way++;
        }
        if (group && !flushing && written_count > 0) {
            memcpy(covered, written, sizeof(covered));
            covered_count = written_count;
            written_count = 0;
            struct io_uring_sqe *sqe = io_uring_get_sqe(&run->ring);
            io_uring_prep_fsync(sqe, run->fd, IORING_FSYNC_DATASYNC);
            io_uring_sqe_set_data64(sqe, FLUSH);
            flushing = true;
            under_way++;
        }
        if (under_way == 0) break;
        int rv = io_uring_submit_and_wait(&run->ring, 1);
        if (rv < 0 && rv != -EINTR) return -rv;
        struct io_uring_cqe *cqe;
        while (io_uring_peek_cqe(&run->ring, &cqe) == 0) {
            uint64_t slot = io_uring_cqe_get_data64(cqe);
            int result = cqe->res;
            io_uring_cqe_seen(&run->ring, cqe);
            under_way--;
            if (result < 0) return -result;
            if (slot == FLUSH) {
                flushing = false;
            } else {
                if ((uint32_t)result != run->row.frame) return EIO;
                run->bytes += run->row.frame;
                if (group) {
                    written[written_count++] = (unsigned)slot;
                    continue;
                }
                covered[0] = (unsigned)slot;
                covered_count = 1;
            }
            for (unsigned i = 0; i < covered_count; i++) {
                q_hist_record(run->latency, now_ns() - run->started_ns[covered[i]], 1);
                free_slots[free_count++] = covered[i];
            }
            covered_count = 0;
        }
    }
    return 0;
}

static void
fill(const struct bench *bench, uint8_t *frame, uint32_t size)
{
    for (uint32_t at = 0; at < size; at += MESSAGE_BYTES)
        memcpy(frame + at, bench->message, MESSAGE_BYTES);
}
