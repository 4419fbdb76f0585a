/*
 * bench_delay.c: `qmq bench delay`: how late delayed messages are, and whether each comes once.
 *
 * Messages are published at a rate for a while, each due at a random moment of a spread behind a
 * lead. They are consumed as they come. A message is late by the time between its due time and the
 * time at which a broker stored it, so all clocks must be one: run it where the servers are.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

#include "bench.h"
#include "interrupt.h"

#define SUBJECT "bench-delay"

enum {
    FLUSH_MS = 60 * 1000,
    WAIT_MS = 500,
    PATIENCE_MS = 30 * 1000, /* behind the last due time, and behind the last message that came */
    PULL_MESSAGES = 2048
};

/* Begins every body. */
struct body {
    uint64_t run;
    uint64_t counter;
    uint64_t due_ms;
};

struct bench_delay {
    uint64_t rate;
    uint64_t duration_ns;
    uint64_t spread_ns;
    uint64_t lead_ns;
    uint64_t size;
    uint64_t run;
    uint64_t sent; /* messages */
    uint64_t last_due_ms;
    uint64_t last_came_ms;
    uint64_t random;
    uint64_t failed; /* of callbacks, one after another */
    uint64_t stored;
    struct q_fault first_failure;

    uint64_t *seen; /* the sequence under which each came, plus 1; 0: it has not */
    struct bench_result result;
    uint64_t early;
    uint64_t doubled;
    uint64_t came;
};

static int run(struct bench_delay *bench, struct qmq_client *client, bool is_json);
static int publish_all(struct bench_delay *bench, struct qmq_producer *producer);
static int consume_all(struct bench_delay *bench, struct qmq_consumer *consumer);
static void note(struct bench_delay *bench, const struct qmq_message *message);
static void on_sent(void *context, const struct qmq_sent *sent);

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

static uint64_t
wall_ms(void)
{
    return q_clock_wall_ms(q_clock_system());
}

int
bench_delay_run(const struct command *command, int argc, char **argv)
{
    static struct bench_delay bench;
    bench = (struct bench_delay){
        .rate = 1000,
        .duration_ns = 10 * (uint64_t)Q_NS_PER_S,
        .spread_ns = 10 * (uint64_t)Q_NS_PER_S,
        .lead_ns = 2 * (uint64_t)Q_NS_PER_S,
        .size = 128,
    };
    const char *meta = meta_default();
    const char *format = "text";
    const struct q_opt options[] = {
        { "rate", 0, Q_OPT_NUMBER, &bench.rate, "R", "messages a second (1000)", 1, 10000000 },
        { "duration", 0, Q_OPT_DURATION, &bench.duration_ns, "D", "of publishing (10s)", 1, 0 },
        { "spread", 0, Q_OPT_DURATION, &bench.spread_ns, "D", "of due times (10s)", 0, 0 },
        { "lead", 0, Q_OPT_DURATION, &bench.lead_ns, "D", "least delay (2s)", 0, 0 },
        { "size", 0, Q_OPT_SIZE, &bench.size, "B", "bytes of a body (128)", sizeof(struct body),
          1024 * 1024 },
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    bool is_json;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 0, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!bench_format(command, format, &is_json)) return EXIT_USAGE;
    interrupt_block();
    struct qmq_client *client = connect_to(meta, &exit_code);
    if (!client) return exit_code;
    interrupt_here();
    exit_code = run(&bench, client, is_json);
    free(bench.seen);
    qmq_client_free(client);
    return exit_code;
}

struct publishing {
    struct bench_delay *bench;
    struct qmq_producer *producer;
    int exit_code;
};

static void *
publish_main(void *argument)
{
    struct publishing *publishing = argument;
    publishing->exit_code = publish_all(publishing->bench, publishing->producer);
    return NULL;
}

static int
run(struct bench_delay *bench, struct qmq_client *client, bool is_json)
{
    double seconds = (double)bench->duration_ns / (double)Q_NS_PER_S;
    bench->sent = (uint64_t)((double)bench->rate * seconds);
    bench->run = wall_ms();
    bench->random = bench->run;
    bench->last_due_ms =
        wall_ms() + (bench->duration_ns + bench->lead_ns + bench->spread_ns) / Q_NS_PER_MS;
    bench->seen = calloc(bench->sent + 1, sizeof(bench->seen[0]));
    bench->result.name = "delay";
    q_hist_init(&bench->result.latency);
    char group[64];
    (void)snprintf(group, sizeof(group), "bench-%llx", (unsigned long long)bench->run);
    struct qmq_consumer_options wanted = {
        .subject = SUBJECT,
        .group = group,
        .start = QMQ_START_LATEST,
    };
    /* What may be there twice is said to have failed, and is not sent again. */
    struct qmq_producer_options producer_options = { .duplicates = QMQ_DUPLICATES_NEVER };
    struct publishing publishing = { .bench = bench };
    struct qmq_consumer *consumer = NULL;
    int exit_code = EXIT_OK;
    if (!bench->seen ||
        qmq_producer_new(client, &producer_options, &publishing.producer) != QMQ_OK ||
        qmq_consumer_new(client, &wanted, &consumer) != QMQ_OK)
        exit_code = report_error("measure delayed messages");
    uint64_t cpu_ns = bench_cpu_ns();
    uint64_t begin_ns = now_ns();
    pthread_t thread;
    if (exit_code == EXIT_OK && pthread_create(&thread, NULL, publish_main, &publishing) != 0) {
        (void)Q_FAIL(Q_E_NOMEM, .what = "a thread can't be started");
        exit_code = report_error("measure delayed messages");
    } else if (exit_code == EXIT_OK) {
        exit_code = consume_all(bench, consumer);
        (void)pthread_join(thread, NULL);
        if (exit_code == EXIT_OK) exit_code = publishing.exit_code;
    }
    bench->result.took_ns = now_ns() - begin_ns;
    bench->result.cpu_ns = bench_cpu_ns() - cpu_ns;
    qmq_consumer_free(consumer);
    qmq_producer_free(publishing.producer);
    if (exit_code != EXIT_OK) return exit_code;
    uint64_t lost = bench->stored > bench->came ? bench->stored - bench->came : 0;
    double quantiles[] = { 0.5, 0.99, 0.999 };
    double us[3];
    for (unsigned i = 0; i < 3; i++)
        us[i] = (double)q_hist_quantile(&bench->result.latency, quantiles[i]) / Q_NS_PER_US;
    double max_us = (double)bench->result.latency.max / Q_NS_PER_US;
    double took_s = (double)bench->result.took_ns / (double)Q_NS_PER_S;
    if (is_json)
        (void)printf(
            "{\"bench\":\"delay\",\"version\":\"%s\",\"messages\":%llu,\"rate\":%llu,"
            "\"duration_s\":%.3f,\"p50_us\":%.0f,\"p99_us\":%.0f,\"p999_us\":%.0f,"
            "\"max_us\":%.0f,\"early\":%llu,\"lost\":%llu,\"doubled\":%llu,\"failed\":%llu}\n",
            qmq_version(), (unsigned long long)bench->stored, (unsigned long long)bench->rate,
            took_s, us[0], us[1], us[2], max_us, (unsigned long long)bench->early,
            (unsigned long long)lost, (unsigned long long)bench->doubled,
            (unsigned long long)bench->failed);
    else
        (void)printf(
            "delay: %llu messages, %llu/s, in %.2f s\n  late by us: p50 %.0f  p99 %.0f  p999 %.0f  "
            "max %.0f\n  early %llu, lost %llu, doubled %llu, failed %llu\n",
            (unsigned long long)bench->stored, (unsigned long long)bench->rate, took_s, us[0],
            us[1], us[2], max_us, (unsigned long long)bench->early, (unsigned long long)lost,
            (unsigned long long)bench->doubled, (unsigned long long)bench->failed);
    return bench->early + lost + bench->doubled + bench->failed == 0 ? EXIT_OK : EXIT_FAILED;
}

static int
publish_all(struct bench_delay *bench, struct qmq_producer *producer)
{
    uint8_t *bytes = calloc(1, bench->size);
    if (!bytes) return EXIT_FAILED;
    uint64_t begin_ns = now_ns();
    int exit_code = EXIT_OK;
    for (uint64_t i = 0; i < bench->sent && exit_code == EXIT_OK && !interrupt_signal(); i++) {
        uint64_t due_ns = begin_ns + (uint64_t)((double)i / (double)bench->rate * Q_NS_PER_S);
        uint64_t at_ns = now_ns();
        if (due_ns > at_ns + Q_NS_PER_MS) {
            const struct timespec pause = { .tv_nsec = Q_NS_PER_MS };
            (void)nanosleep(&pause, NULL);
        }
        bench->random = bench->random * UINT64_C(6364136223846793005) + 1442695040888963407;
        uint64_t spread_ms = bench->spread_ns / Q_NS_PER_MS + 1;
        struct body body = {
            .run = bench->run,
            .counter = i,
            .due_ms = wall_ms() + bench->lead_ns / Q_NS_PER_MS + (bench->random >> 33) % spread_ms,
        };
        memcpy(bytes, &body, sizeof(body));
        struct qmq_outgoing message = {
            .body = { bytes, bench->size },
            .due_ms = body.due_ms,
        };
        if (qmq_send(producer, SUBJECT, &message, on_sent, bench) != QMQ_OK)
            exit_code = report_error("publish");
    }
    (void)qmq_flush(producer, FLUSH_MS);
    free(bytes);
    return exit_code;
}

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    struct bench_delay *bench = context;
    if (sent->code == QMQ_OK)
        __atomic_fetch_add(&bench->stored, 1, __ATOMIC_RELEASE);
    else
        bench->failed++;
}

static int
consume_all(struct bench_delay *bench, struct qmq_consumer *consumer)
{
    while (!interrupt_signal()) {
        uint64_t stored = __atomic_load_n(&bench->stored, __ATOMIC_ACQUIRE);
        if (stored == bench->sent && bench->came >= stored) break;
        uint64_t last_ms = q_max_u64(bench->last_due_ms, bench->last_came_ms);
        if (wall_ms() > last_ms + PATIENCE_MS) break;
        struct qmq_batch *batch;
        int code = qmq_pull(consumer, PULL_MESSAGES, WAIT_MS, &batch);
        if (code == QMQ_AGAIN) continue;
        if (code != QMQ_OK) {
            if (qmq_last_error().retryable) continue;
            return report_error("take messages");
        }
        for (size_t i = 0; i < qmq_batch_count(batch); i++)
            note(bench, qmq_batch_message(batch, i));
        bench->last_came_ms = wall_ms();
        (void)qmq_ack(consumer, batch, 0, qmq_batch_count(batch));
        qmq_batch_free(batch);
    }
    return EXIT_OK;
}

static void
note(struct bench_delay *bench, const struct qmq_message *message)
{
    struct body body;
    if (message->body.size < sizeof(body)) return;
    memcpy(&body, message->body.data, sizeof(body));
    if (body.run != bench->run || body.counter >= bench->sent) return;
    /* A group may hand out a message again; one that is stored twice has two sequences. */
    uint64_t seen = bench->seen[body.counter];
    if (seen == message->sequence + 1) return;
    if (seen != 0) {
        bench->doubled++;
        return;
    }
    bench->seen[body.counter] = message->sequence + 1;
    bench->came++;
    if (message->stored_ms < body.due_ms)
        bench->early++;
    else
        q_hist_record(&bench->result.latency, (message->stored_ms - body.due_ms) * Q_NS_PER_MS, 1);
}
