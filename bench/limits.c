/*
 * limits: what is the most that this machine can do, of what a message queue is made of?
 *
 *     limits [--seconds S] [--dir D] [-o json]
 *
 * Copying, handing over between threads, loopback TCP, calls and one-way messages of net/, writing with and
 * without a flush: each by itself, in one run, both ends in this process. Virtual processors may lie near each
 * other or far, and change from second to second; all that wakes a thread takes about twice as long when they
 * are far. So a cache line's way between two threads is measured before and after everything else, and figures
 * of runs in different states are not to be compared.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbase/hist.h>
#include <qbase/opts.h>
#include <qnet/caller.h>
#include <qnet/pipeline.h>
#include <qnet/server.h>

#include "raw.h"
#include "usage.h"

enum {
    SMALL = 128,
    LARGE = 256 * 1024,
    AREA = 64 * 1024 * 1024, /* more than any cache keeps */
    FRAME = 1024 * 1024,
    BLOCK = 4096,
    FAR_NS = 200, /* a cache line's round trip takes 80 or 400 */
    CALLS_SMALL = 64,
    CALLS_LARGE = 4,
    CALL_TIMEOUT_MS = 10 * 1000,
    ROUND_TRIPS = 200 * 1000, /* of a cache line */
    STRETCH = 1000,
};

struct limits {
    uint64_t run_ns;
    const char *directory;
    bool is_json;
    bool failed;
};

struct figure {
    const char *name;
    const char *what;
    double estimate;
    bool (*measure)(struct limits *limits, double *ret_value, double *ret_cpu_us);
};

static bool cache_line(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool handover(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool copies(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool tcp_round_trip(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool tcp_bytes(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool call_round_trip(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool calls_small(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool calls_large(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool pushes(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool writes(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool flushed_writes(struct limits *limits, double *ret_value, double *ret_cpu_us);
static bool flush(struct limits *limits, double *ret_value, double *ret_cpu_us);

/* The estimates are of one such machine in its near state; CPU is of an operation, of both its ends. */
static const struct figure figures[] = {
    { "cache_line_ns", "a cache line to another thread and back, ns", 80, cache_line },
    { "handover_us", "waking a thread, us", 4, handover },
    { "memcpy_bytes_per_s", "copying 256 KiB that no cache has, bytes/s", 8e9, copies },
    { "tcp_round_trip_us", "128 B over loopback TCP and back, us", 15, tcp_round_trip },
    { "tcp_bytes_per_s", "256 KiB writes over loopback TCP, bytes/s", 5e9, tcp_bytes },
    { "call_round_trip_us", "a call of 128 B, one under way, us", 27, call_round_trip },
    { "calls_per_s", "calls of 128 B, 64 under way, 1/s", 300e3, calls_small },
    { "call_bytes_per_s", "calls of 256 KiB, 4 under way, bytes/s", 6e9, calls_large },
    { "pushes_per_s", "one-way messages of 128 B, 1/s", 300e3, pushes },
    { "write_bytes_per_s", "writes of 1 MiB, not flushed, bytes/s", 1.5e9, writes },
    { "flushed_bytes_per_s", "writes of 1 MiB, flushed, bytes/s", 1e9, flushed_writes },
    { "flush_us", "writing and flushing 4 KiB, us (median)", 150, flush },
};

int
main(int argc, char **argv)
{
    struct limits limits = { .run_ns = Q_NS_PER_S, .directory = "." };
    const char *format = "text";
    const struct q_opt options[] = {
        { "seconds", 0, Q_OPT_DURATION, &limits.run_ns, "S", "for each figure (1s)",
          10 * Q_NS_PER_MS, 0 },
        { "dir", 0, Q_OPT_TEXT, &limits.directory, "D", "disk to measure (.)", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json (text)", 0, 0 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help) {
        (void)fprintf(stderr, "%s\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    limits.is_json = strcmp(format, "json") == 0;
    double before;
    double after;
    double cpu_us;
    bool is_fine = cache_line(&limits, &before, &cpu_us);
    (void)printf(limits.is_json ? "{\"bench\":\"limits\"" : "What is the most that there is?\n");
    for (unsigned i = 0; is_fine && i < sizeof(figures) / sizeof(figures[0]); i++) {
        const struct figure *figure = &figures[i];
        double value;
        cpu_us = 0;
        is_fine = figure->measure(&limits, &value, &cpu_us);
        if (!is_fine) break;
        if (limits.is_json) {
            (void)printf(",\"%s\":%.3g", figure->name, value);
            if (cpu_us > 0) (void)printf(",\"%s_cpu_us\":%.3f", figure->name, cpu_us);
            continue;
        }
        (void)printf("  %-48s %12.4g  (estimate %.3g)", figure->what, value, figure->estimate);
        if (cpu_us > 0) (void)printf("  CPU %.2f us", cpu_us);
        (void)printf("\n");
        (void)fflush(stdout);
    }
    is_fine = is_fine && cache_line(&limits, &after, &cpu_us);
    if (!is_fine) {
        char line[Q_FAULT_LINE_MAX];
        (void)fprintf(stderr, "limits: %s\n", q_fault_format(q_fault_last(), line, sizeof(line)));
        return 1;
    }
    const char *first = before < FAR_NS ? "near" : "far";
    const char *last = after < FAR_NS ? "near" : "far";
    if (limits.is_json)
        (void)printf(",\"before\":\"%s\",\"after\":\"%s\"}\n", first, last);
    else
        (void)printf(
            "processors were %s each other before, and %s after\n",
            before < FAR_NS ? "near" : "far from", after < FAR_NS ? "near" : "far from");
    return 0;
}

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

static bool
system_failed(const char *what)
{
    (void)Q_FAIL(q_err_from_errno(errno), .what = what);
    return false;
}

/* --- Threads. */

static struct {
    _Alignas(64) atomic_uint turn;
    _Alignas(64) atomic_bool is_over;
    sem_t there;
    sem_t back;
} table;

static void *
line_main(void *argument)
{
    (void)argument;
    for (unsigned turn = 1; turn < 2 * ROUND_TRIPS; turn += 2) {
        while (atomic_load_explicit(&table.turn, memory_order_acquire) != turn)
            ;
        atomic_store_explicit(&table.turn, turn + 1, memory_order_release);
    }
    return NULL;
}

static bool
cache_line(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    (void)limits;
    (void)ret_cpu_us;
    pthread_t other;
    atomic_store(&table.turn, 0);
    errno = pthread_create(&other, NULL, line_main, NULL);
    if (errno != 0) return system_failed("a second thread");
    /* The best stretch: whoever else wants a processor has nothing to do with where they lie. */
    uint64_t begin_ns = now_ns();
    uint64_t least_ns = UINT64_MAX;
    for (unsigned turn = 0; turn < 2 * ROUND_TRIPS; turn += 2) {
        if (turn > 0 && turn % (2 * STRETCH) == 0) {
            least_ns = q_min_u64(least_ns, now_ns() - begin_ns);
            begin_ns = now_ns();
        }
        while (atomic_load_explicit(&table.turn, memory_order_acquire) != turn)
            ;
        atomic_store_explicit(&table.turn, turn + 1, memory_order_release);
    }
    (void)pthread_join(other, NULL);
    *ret_value = (double)least_ns / STRETCH;
    return true;
}

static void *
wake_main(void *argument)
{
    (void)argument;
    while (sem_wait(&table.there) == 0 && !atomic_load(&table.is_over))
        (void)sem_post(&table.back);
    return NULL;
}

static bool
handover(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    pthread_t other;
    (void)sem_init(&table.there, 0, 0);
    (void)sem_init(&table.back, 0, 0);
    atomic_store(&table.is_over, false);
    errno = pthread_create(&other, NULL, wake_main, NULL);
    if (errno != 0) return system_failed("a second thread");
    struct usage start = usage_now();
    uint64_t count = 0;
    for (uint64_t end_ns = now_ns() + limits->run_ns; now_ns() < end_ns; count++) {
        (void)sem_post(&table.there);
        (void)sem_wait(&table.back);
    }
    struct usage usage = usage_since(&start);
    atomic_store(&table.is_over, true);
    (void)sem_post(&table.there);
    (void)pthread_join(other, NULL);
    *ret_value = (double)usage.wall_ns / 2e3 / (double)count;
    *ret_cpu_us = (double)usage.process_ns / 2e3 / (double)count;
    return true;
}

static bool
copies(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    uint8_t *from = malloc(AREA);
    uint8_t *to = malloc(AREA);
    bool is_fine = from != NULL && to != NULL;
    if (is_fine) {
        memset(from, 1, AREA);
        memset(to, 2, AREA);
        uint64_t count = 0;
        struct usage start = usage_now();
        for (uint64_t end_ns = now_ns() + limits->run_ns; now_ns() < end_ns; count++) {
            size_t at = count * LARGE % AREA;
            memcpy(to + at, from + at, LARGE);
        }
        struct usage usage = usage_since(&start);
        *ret_value = (double)count * LARGE * 1e9 / (double)usage.wall_ns;
        *ret_cpu_us = (double)usage.process_ns / 1e3 / (double)count;
    } else {
        (void)Q_FAIL(Q_E_NOMEM);
    }
    free(from);
    free(to);
    return is_fine;
}

/* --- TCP. */

struct echo {
    int end;
    bool answers;
};

static bool
transfer_all(int end, uint8_t *bytes, size_t size, bool out)
{
    for (size_t done = 0; done < size;) {
        ssize_t moved = out ? send(end, bytes + done, size - done, MSG_NOSIGNAL)
                            : recv(end, bytes + done, size - done, 0);
        if (moved <= 0) return false;
        done += (size_t)moved;
    }
    return true;
}

static void *
echo_main(void *argument)
{
    const struct echo *echo = argument;
    static uint8_t bytes[LARGE];
    size_t size = echo->answers ? SMALL : LARGE;
    while (transfer_all(echo->end, bytes, size, false))
        if (echo->answers && !transfer_all(echo->end, bytes, size, true)) break;
    return NULL;
}

static bool
tcp_pair(int ends[2])
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t size = sizeof(address);
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    ends[0] = socket(AF_INET, SOCK_STREAM, 0);
    ends[1] = -1;
    if (listener >= 0 && ends[0] >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0 &&
        listen(listener, 1) == 0 &&
        getsockname(listener, (struct sockaddr *)&address, &size) == 0 &&
        connect(ends[0], (struct sockaddr *)&address, size) == 0)
        ends[1] = accept(listener, NULL, NULL);
    if (listener >= 0) (void)close(listener);
    for (unsigned i = 0; i < 2 && ends[1] >= 0; i++)
        (void)setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (ends[1] >= 0) return true;
    if (ends[0] >= 0) (void)close(ends[0]);
    return system_failed("a connection over loopback");
}

static bool
tcp_run(struct limits *limits, bool answers, uint64_t *ret_count, struct usage *ret_usage)
{
    int ends[2];
    pthread_t other;
    static uint8_t bytes[LARGE];
    size_t size = answers ? SMALL : LARGE;
    if (!tcp_pair(ends)) return false;
    struct echo echo = { ends[1], answers };
    errno = pthread_create(&other, NULL, echo_main, &echo);
    bool is_fine = errno == 0;
    *ret_count = 0;
    struct usage start = usage_now();
    for (uint64_t end_ns = now_ns() + limits->run_ns; is_fine && now_ns() < end_ns; ++*ret_count)
        is_fine = transfer_all(ends[0], bytes, size, true) &&
                  (!answers || transfer_all(ends[0], bytes, size, false));
    *ret_usage = usage_since(&start);
    if (!is_fine) (void)system_failed("loopback");
    (void)shutdown(ends[0], SHUT_RDWR);
    if (is_fine) (void)pthread_join(other, NULL);
    (void)close(ends[0]);
    (void)close(ends[1]);
    return is_fine;
}

static bool
tcp_round_trip(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    uint64_t count;
    struct usage usage;
    if (!tcp_run(limits, true, &count, &usage)) return false;
    *ret_value = (double)usage.wall_ns / 1e3 / (double)count;
    *ret_cpu_us = (double)usage.process_ns / 1e3 / (double)count;
    return true;
}

static bool
tcp_bytes(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    uint64_t count;
    struct usage usage;
    if (!tcp_run(limits, false, &count, &usage)) return false;
    *ret_value = (double)count * LARGE * 1e9 / (double)usage.wall_ns;
    *ret_cpu_us = (double)usage.process_ns / 1e3 / (double)count;
    return true;
}

/* --- Calls. */

struct calls {
    struct qnet_caller *caller;
    size_t size;
    uint64_t end_ns;
    atomic_uint_fast64_t count;
    atomic_uint under_way;
    atomic_bool has_failed;
};

static void
on_call(void *context, struct qnet_call *call)
{
    (void)context;
    struct qnet_buffer *answer = qnet_call_take_request(call);
    qnet_buffer_shrink(answer, 16);
    qnet_call_answer(call, answer);
}

static void
submit(struct calls *calls, struct qnet_request *request)
{
    if (qnet_buffer_new(calls->size, &request->buffer) == Q_OK &&
        qnet_caller_submit(calls->caller, request) == Q_OK)
        return;
    atomic_store(&calls->has_failed, true);
    atomic_fetch_sub(&calls->under_way, 1);
}

static void
on_answer(struct qnet_request *request, enum q_err err, struct qnet_buffer *answer)
{
    struct calls *calls = request->context;
    qnet_buffer_free(answer);
    if (err != Q_OK) atomic_store(&calls->has_failed, true);
    atomic_fetch_add_explicit(&calls->count, 1, memory_order_relaxed);
    if (err == Q_OK && now_ns() < calls->end_ns)
        submit(calls, request);
    else
        atomic_fetch_sub(&calls->under_way, 1);
}

static bool
calls_run(struct calls *calls, uint64_t run_ns, unsigned under_way, struct usage *ret_usage)
{
    static struct qnet_request requests[CALLS_SMALL];
    struct qnet_server *server = NULL;
    const struct qnet_server_options options = { .url = "tcp://127.0.0.1:0", .on_call = on_call };
    if (qnet_server_new(&options, &server) != Q_OK) return false;
    const struct qnet_caller_options wanted = { .url = qnet_server_url(server) };
    bool is_fine = qnet_caller_new(&wanted, &calls->caller) == Q_OK;
    /* The first one waits for the connection. */
    struct qnet_buffer *buffer = NULL;
    is_fine = is_fine && qnet_buffer_new(calls->size, &buffer) == Q_OK &&
              qnet_caller_call(calls->caller, buffer, CALL_TIMEOUT_MS, &buffer) == Q_OK;
    if (is_fine) {
        qnet_buffer_free(buffer);
        struct usage start = usage_now();
        calls->end_ns = now_ns() + run_ns;
        atomic_store(&calls->under_way, under_way);
        for (unsigned i = 0; i < under_way; i++) {
            requests[i] = (struct qnet_request){
                .timeout_ms = CALL_TIMEOUT_MS,
                .done = on_answer,
                .context = calls,
            };
            submit(calls, &requests[i]);
        }
        while (atomic_load(&calls->under_way) > 0)
            (void)usleep(200);
        *ret_usage = usage_since(&start);
        if (atomic_load(&calls->has_failed)) is_fine = false;
        if (!is_fine) (void)Q_FAIL(Q_E_CONNECTION, .what = "a call over loopback");
    }
    qnet_caller_free(calls->caller);
    qnet_server_free(server);
    return is_fine;
}

static bool
call_round_trip(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    struct calls calls = { .size = SMALL };
    struct usage usage;
    if (!calls_run(&calls, limits->run_ns, 1, &usage)) return false;
    *ret_value = (double)usage.wall_ns / 1e3 / (double)calls.count;
    *ret_cpu_us = (double)usage.process_ns / 1e3 / (double)calls.count;
    return true;
}

static bool
calls_small(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    struct calls calls = { .size = SMALL };
    struct usage usage;
    if (!calls_run(&calls, limits->run_ns, CALLS_SMALL, &usage)) return false;
    *ret_value = (double)calls.count * 1e9 / (double)usage.wall_ns;
    *ret_cpu_us = (double)usage.process_ns / 1e3 / (double)calls.count;
    return true;
}

static bool
calls_large(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    struct calls calls = { .size = LARGE };
    struct usage usage;
    if (!calls_run(&calls, limits->run_ns, CALLS_LARGE, &usage)) return false;
    *ret_value = (double)calls.count * LARGE * 1e9 / (double)usage.wall_ns;
    *ret_cpu_us = (double)usage.process_ns / 1e3 / (double)calls.count;
    return true;
}

static void
on_message(void *context, struct qnet_buffer *buffer)
{
    atomic_fetch_add_explicit((atomic_uint_fast64_t *)context, 1, memory_order_relaxed);
    qnet_buffer_free(buffer);
}

static bool
pushes(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    atomic_uint_fast64_t came = 0;
    struct qnet_puller *puller = NULL;
    struct qnet_pusher *pusher = NULL;
    const struct qnet_puller_options options = {
        .url = "tcp://127.0.0.1:0",
        .context = &came,
        .on_message = on_message,
    };
    if (qnet_puller_new(&options, &puller) != Q_OK) return false;
    const struct qnet_pusher_options wanted = { .url = qnet_puller_url(puller) };
    bool is_fine = qnet_pusher_new(&wanted, &pusher) == Q_OK;
    struct usage start = usage_now();
    for (uint64_t end_ns = now_ns() + limits->run_ns; is_fine && now_ns() < end_ns;) {
        struct qnet_buffer *buffer;
        is_fine = qnet_buffer_new(SMALL, &buffer) == Q_OK;
        if (!is_fine) break;
        enum q_err err = qnet_pusher_push(pusher, buffer);
        if (err != Q_OK) qnet_buffer_free(buffer);
        if (err == Q_BUSY) (void)usleep(50);
        is_fine = err == Q_OK || err == Q_BUSY;
    }
    struct usage usage = usage_since(&start);
    uint64_t count = q_max_u64(atomic_load(&came), 1);
    qnet_pusher_free(pusher, 0);
    qnet_puller_free(puller);
    *ret_value = (double)count * 1e9 / (double)usage.wall_ns;
    *ret_cpu_us = (double)usage.process_ns / 1e3 / (double)count;
    return is_fine;
}

/* --- The disk. */

static bool
raw_bytes(struct limits *limits, bool flushed, double *ret_value, double *ret_cpu_us)
{
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/bench-limits-%d", limits->directory, (int)getpid());
    const struct raw_options options = {
        .path = path,
        .frame_bytes = FRAME,
        .message_bytes = FRAME,
        .flushed = flushed,
    };
    struct raw *raw;
    static struct raw_result result;
    result = (struct raw_result){ 0 };
    q_hist_init(&result.latency);
    int failed = raw_new(&options, &raw);
    if (failed == 0) {
        failed = raw_run(raw, limits->run_ns, &result);
        raw_free(raw);
    }
    if (failed != 0) {
        (void)Q_FAIL(q_err_from_errno(-failed), .path = path);
        return false;
    }
    *ret_value = (double)result.bytes * 1e9 / (double)result.usage.wall_ns;
    *ret_cpu_us = (double)result.usage.process_ns / 1e3 * FRAME / (double)result.bytes;
    return true;
}

static bool
writes(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    return raw_bytes(limits, false, ret_value, ret_cpu_us);
}

static bool
flushed_writes(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    return raw_bytes(limits, true, ret_value, ret_cpu_us);
}

static bool
flush(struct limits *limits, double *ret_value, double *ret_cpu_us)
{
    char path[4096];
    static uint8_t block[BLOCK];
    static struct q_hist latency;
    q_hist_init(&latency);
    (void)snprintf(path, sizeof(path), "%s/bench-limits-%d", limits->directory, (int)getpid());
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool is_fine = file >= 0;
    struct usage start = usage_now();
    for (uint64_t end_ns = now_ns() + limits->run_ns; is_fine && now_ns() < end_ns;) {
        uint64_t begin_ns = now_ns();
        is_fine = pwrite(file, block, BLOCK, 0) == BLOCK && fdatasync(file) == 0;
        q_hist_record(&latency, now_ns() - begin_ns, 1);
    }
    struct usage usage = usage_since(&start);
    if (!is_fine) (void)system_failed(path);
    if (file >= 0) {
        (void)close(file);
        (void)unlink(path);
    }
    *ret_value = (double)q_hist_quantile(&latency, 0.5) / 1e3;
    *ret_cpu_us = latency.count > 0 ? (double)usage.process_ns / 1e3 / (double)latency.count : 0;
    return is_fine;
}
