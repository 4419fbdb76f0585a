/*
 * parked: what does a pull that waits cost a broker, over the wire?
 *
 *     parked [--pulls N] [--clients N] [--qmqd PATH] [-o json]
 *
 * A qmqd is started, with everything as it comes. N consumers join, in groups of 100 on one subject,
 * over a few clients (each has a connection of its own), and each waits for a message. When all of
 * their pulls are known to wait, 100 messages are published: each consumer gets one of them, and
 * acknowledges it. Memory is what is the broker's alone (anonymous, of /proc/PID/smaps_rollup), with
 * meta and delay in the same process.
 *
 * Estimate: a call of nng is 1.2 KiB, its message and the request in the broker are about as much, and
 * nng's own context a little less: 4 KiB for a pull.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qbase/clock.h>
#include <qbase/opts.h>
#include <qmq/qmq.h>

enum {
    MEMBERS = 100, /* of a group */
    STACK = 256 * 1024,
    PATIENCE_S = 300,
    POLL_MS = 20,
    RETRIES = 20,
};

static const char subject[] = "orders";

struct bench {
    uint64_t pulls;
    uint64_t client_count;
    const char *qmqd;
    bool json;
    char directory[64];
    char ready_file[96];
    char meta[96];
    pid_t server;
    struct qmq_client **clients;
    struct member *members;
    _Atomic uint64_t got;
    _Atomic uint64_t retries;
    _Atomic uint64_t failed;
};

struct member {
    struct bench *bench;
    struct qmq_consumer *consumer;
    pthread_t thread;
};

static bool run(struct bench *bench);
static bool start_server(struct bench *bench);
static bool join(struct bench *bench);
static bool park(struct bench *bench);
static bool publish(struct bench *bench);
static void *wait_for_message(void *context);
static uint64_t count_parked(struct bench *bench);
static uint64_t anonymous_bytes(pid_t pid);
static bool failed(const char *what);

int
main(int argc, char **argv)
{
    static struct bench bench = { .pulls = 10000, .client_count = 4 };
    const char *output = "text";
    const struct q_opt options[] = {
        { "pulls", 0, Q_OPT_NUMBER, &bench.pulls, "N", "pulls that wait (10,000)", MEMBERS,
          100 * 1000 },
        { "clients", 0, Q_OPT_NUMBER, &bench.client_count, "N", "connections (4)", 1, 1000 },
        { "qmqd", 0, Q_OPT_TEXT, &bench.qmqd, "PATH", "the server (of this build)", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &output, "text|json", "how to print it (text)", 0, 0 },
    };
    struct q_opts_result result;
    enum q_err err =
        q_opts_parse(options, sizeof(options) / sizeof(options[0]), argc, argv, &result);
    if (err != Q_OK || result.help) {
        (void)fprintf(stderr, "%s\n", result.error);
        q_opts_print_help(stderr, options, sizeof(options) / sizeof(options[0]));
        return result.help ? 0 : 2;
    }
    char path[PATH_MAX];
    if (bench.qmqd == NULL) {
        ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 32);
        if (size < 0) return 1;
        path[size] = '\0';
        char *folder = strrchr(path, '/');
        (void)snprintf(folder, 32, "/../servers/qmqd");
        bench.qmqd = path;
    }
    bench.json = strcmp(output, "json") == 0;
    bench.pulls -= bench.pulls % MEMBERS;
    bool fine = run(&bench);
    if (bench.server > 0) {
        (void)kill(bench.server, SIGTERM);
        (void)waitpid(bench.server, NULL, 0);
    }
    char command[128];
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", bench.directory);
    if (bench.directory[0] != '\0' && system(command) != 0) fine = false;
    return fine ? 0 : 1;
}

static bool
run(struct bench *bench)
{
    if (!start_server(bench)) return false;
    uint64_t started = anonymous_bytes(bench->server);
    if (!join(bench)) return false;
    uint64_t joined = anonymous_bytes(bench->server);
    if (!park(bench)) return false;
    uint64_t parked = anonymous_bytes(bench->server);
    uint64_t began_ns = q_clock_monotonic_ns(q_clock_system());
    if (!publish(bench)) return false;
    for (uint64_t i = 0; i < bench->pulls; i++)
        (void)pthread_join(bench->members[i].thread, NULL);
    uint64_t took_ms = (q_clock_monotonic_ns(q_clock_system()) - began_ns) / Q_NS_PER_MS;
    uint64_t got = atomic_load(&bench->got);
    uint64_t per_consumer = (joined - started) / bench->pulls;
    uint64_t per_pull = (parked > joined ? parked - joined : 0) / bench->pulls;
    if (bench->json)
        (void)printf(
            "{\"pulls\":%" PRIu64 ",\"answered\":%" PRIu64 ",\"ms\":%" PRIu64
            ",\"started_bytes\":%" PRIu64 ",\"joined_bytes\":%" PRIu64 ",\"parked_bytes\":%" PRIu64
            ",\"bytes_per_consumer\":%" PRIu64 ",\"bytes_per_pull\":%" PRIu64 "}\n",
            bench->pulls, got, took_ms, started, joined, parked, per_consumer, per_pull);
    else
        (void)printf(
            "pulls that waited    %" PRIu64 ", in %" PRIu64 " groups, over %" PRIu64
            " connections\n"
            "answered             %" PRIu64 ", the last one after %" PRIu64
            " ms; asked again %" PRIu64 "\n"
            "memory, anonymous    %.1f MiB at the start, %.1f joined, %.1f when all wait\n"
            "for each consumer    %" PRIu64 " bytes\n"
            "for each that waits  %" PRIu64 " bytes more\n",
            bench->pulls, bench->pulls / MEMBERS, bench->client_count, got, took_ms,
            atomic_load(&bench->retries), (double)started / (1 << 20), (double)joined / (1 << 20),
            (double)parked / (1 << 20), per_consumer, per_pull);
    for (uint64_t i = 0; i < bench->pulls; i++)
        qmq_consumer_free(bench->members[i].consumer);
    for (uint64_t i = 0; i < bench->client_count; i++)
        qmq_client_free(bench->clients[i]);
    free(bench->members);
    free(bench->clients);
    return got == bench->pulls && atomic_load(&bench->failed) == 0;
}

static bool
start_server(struct bench *bench)
{
    (void)snprintf(bench->directory, sizeof(bench->directory), "/tmp/qmq-parked-XXXXXX");
    if (mkdtemp(bench->directory) == NULL) return failed("make a directory");
    (void)snprintf(bench->ready_file, sizeof(bench->ready_file), "%s/ready", bench->directory);
    char data[96];
    (void)snprintf(data, sizeof(data), "%s/data", bench->directory);
    bench->server = fork();
    if (bench->server == 0) {
        (void)execl(
            bench->qmqd, "qmqd", "--dir", data, "--port-base", "0", "--log-level", "error",
            "--ready-file", bench->ready_file, (char *)NULL);
        (void)fprintf(stderr, "parked: can't run %s: %s\n", bench->qmqd, strerror(errno));
        _exit(127);
    }
    if (bench->server < 0) return failed("fork");
    for (unsigned i = 0; i < PATIENCE_S * 1000 / POLL_MS; i++) {
        char role[16];
        FILE *file = fopen(bench->ready_file, "r");
        while (file != NULL && fscanf(file, "%15s %95s", role, bench->meta) == 2)
            if (strcmp(role, "meta") == 0) break;
        if (file != NULL) (void)fclose(file);
        if (file != NULL && strcmp(role, "meta") == 0) return true;
        (void)usleep(POLL_MS * 1000);
    }
    return failed("wait for the server");
}

static bool
join(struct bench *bench)
{
    bench->clients = calloc(bench->client_count, sizeof(struct qmq_client *));
    bench->members = calloc(bench->pulls, sizeof(struct member));
    if (bench->clients == NULL || bench->members == NULL) return failed("memory");
    for (uint64_t i = 0; i < bench->client_count; i++) {
        const struct qmq_client_options options = { .meta = bench->meta, .program = "parked" };
        if (qmq_connect(&options, &bench->clients[i]) != QMQ_OK) return failed("connect");
    }
    for (uint64_t i = 0; i < bench->pulls; i++) {
        char group[24];
        (void)snprintf(group, sizeof(group), "g%" PRIu64, i / MEMBERS);
        const struct qmq_consumer_options options = {
            .subject = subject,
            .group = group,
            .no_prefetch = true,
        };
        struct member *member = &bench->members[i];
        member->bench = bench;
        struct qmq_client *client = bench->clients[i % bench->client_count];
        if (qmq_consumer_new(client, &options, &member->consumer) != QMQ_OK) return failed("join");
    }
    return true;
}

static bool
park(struct bench *bench)
{
    pthread_attr_t attributes;
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, STACK);
    for (uint64_t i = 0; i < bench->pulls; i++)
        if (pthread_create(
                &bench->members[i].thread, &attributes, wait_for_message, &bench->members[i]) != 0)
            return failed("start a thread");
    (void)pthread_attr_destroy(&attributes);
    for (unsigned i = 0; i < PATIENCE_S; i++) {
        if (count_parked(bench) == bench->pulls) return true;
        (void)sleep(1);
    }
    return failed("wait until all pulls wait");
}

static void *
wait_for_message(void *context)
{
    struct member *member = context;
    struct bench *bench = member->bench;
    struct qmq_batch *batch;
    int code = qmq_pull(member->consumer, 1, PATIENCE_S * 1000, &batch);
    /* A machine that is busy makes answers late. */
    for (unsigned i = 0; i < RETRIES && code != QMQ_OK && qmq_last_error().retryable; i++) {
        (void)atomic_fetch_add(&bench->retries, 1);
        code = qmq_pull(member->consumer, 1, PATIENCE_S * 1000, &batch);
    }
    if (code == QMQ_OK) {
        code = qmq_ack(member->consumer, batch, 0, 1);
        (void)atomic_fetch_add(&bench->got, code == QMQ_OK && qmq_batch_count(batch) == 1 ? 1 : 0);
        qmq_batch_free(batch);
    }
    if (code != QMQ_OK && atomic_fetch_add(&bench->failed, 1) == 0) (void)failed("get a message");
    return NULL;
}

static void
add_parked(void *context, const struct qmq_lag *lag)
{
    uint64_t *parked = context;
    for (size_t i = 0; i < lag->consumer_count; i++)
        *parked += lag->consumers[i].waiting ? 1 : 0;
}

static uint64_t
count_parked(struct bench *bench)
{
    uint64_t parked = 0;
    for (uint64_t i = 0; i < bench->pulls / MEMBERS; i++) {
        char group[24];
        (void)snprintf(group, sizeof(group), "g%" PRIu64, i);
        if (qmq_group_lag(bench->clients[0], subject, group, add_parked, &parked) != QMQ_OK)
            (void)failed("ask for the lag");
    }
    return parked;
}

static bool
publish(struct bench *bench)
{
    struct qmq_producer *producer;
    if (qmq_producer_new(bench->clients[0], NULL, &producer) != QMQ_OK) return failed("produce");
    bool fine = true;
    for (unsigned i = 0; i < MEMBERS && fine; i++) {
        const struct qmq_outgoing message = { .body = { "a message", 9 } };
        fine = qmq_send(producer, subject, &message, NULL, NULL) == QMQ_OK;
    }
    if (qmq_flush(producer, PATIENCE_S * 1000) != QMQ_OK || !fine) fine = failed("publish");
    qmq_producer_free(producer);
    return fine;
}

static uint64_t
anonymous_bytes(pid_t pid)
{
    char path[64];
    char line[256];
    unsigned long long kib = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/smaps_rollup", (int)pid);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "Anonymous: %llu kB", &kib) == 1) break;
    if (file != NULL) (void)fclose(file);
    return kib * 1024;
}

static bool
failed(const char *what)
{
    (void)fprintf(stderr, "parked: can't %s: %s\n", what, qmq_last_error().message);
    return false;
}
