/*
 * bench_pub.c: `qmq bench pub`: how fast messages get a durable acknowledgement.
 *
 * One producer sends as fast as its memory is acknowledged. The latency is from qmq_send() to the
 * callback; with everything in flight that fits, it is mostly waiting. One way (`--ack none`) a message counts
 * when a broker has got it.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

#include "bench.h"
#include "interrupt.h"

enum {
    MEMORY_BYTES = 8 * 1024 * 1024,
    FLUSH_MS = 60 * 1000,
    BODY_MAX = 4 * 1024 * 1024 - 4,
    LOOK_EVERY = 32, /* messages between looks at the clock, which would cost as much as a send */
};

struct bench_pub {
    uint64_t size;
    uint64_t batch;
    uint64_t duration_ns;
    uint64_t subjects;
    uint64_t run;
    uint64_t begin_ns;
    struct qmq_client *client;
    struct qmq_producer *producer;
    uint8_t *body;
    char (*names)[32];

    /* Of callbacks. */
    struct bench_result result;
    uint64_t now_ns;
    uint64_t failed;
    uint64_t maybe_duplicate;
    struct q_fault first_failure;
};

static int run(struct bench_pub *bench, const struct bench_output *output);
static int send_all(struct bench_pub *bench);
static void on_sent(void *context, const struct qmq_sent *sent);
static uint64_t now_ns(void);

/* The callbacks' context tells when a message was sent; there is one bench in a process. */
static struct bench_pub *running;

int
bench_pub_run(const struct command *command, int argc, char **argv)
{
    static struct bench_pub bench;
    bench = (struct bench_pub){
        .size = 128,
        .batch = 512,
        .duration_ns = 5 * (uint64_t)Q_NS_PER_S,
        .subjects = 1,
    };
    const char *meta = meta_default();
    const char *format = "text";
    const char *compare = NULL;
    const char *ack = "sync";
    const struct q_opt options[] = {
        { "size", 0, Q_OPT_SIZE, &bench.size, "B", "bytes of a body (128)", BENCH_BODY_MIN,
          BODY_MAX },
        { "batch", 0, Q_OPT_NUMBER, &bench.batch, "N", "messages of a batch at most (512)", 1,
          10000 },
        { "duration", 0, Q_OPT_DURATION, &bench.duration_ns, "D", "how long (5s)", 1, 0 },
        { "subjects", 0, Q_OPT_NUMBER, &bench.subjects, "N",
          "bench, or bench-0 to bench-N-1 in turn (1)", 1, BENCH_SUBJECTS_MAX },
        { "ack", 0, Q_OPT_TEXT, &ack, "MODE",
          "sync: acknowledged when flushed; async: when written; none: one way (sync)", 0, 0 },
        BENCH_OUTPUT_OPTIONS(format, compare),
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    struct bench_output output;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 0, argc, argv, &result,
            &exit_code))
        return exit_code;
    struct qmq_producer_options wanted = {
        .batch_messages_max = (uint32_t)bench.batch,
        .memory_bytes_max = MEMORY_BYTES,
    };
    if (!bench_ack(command, ack, &wanted)) return EXIT_USAGE;
    if (!bench_open_output(command, format, "pub", compare, &output)) return EXIT_USAGE;

    interrupt_block();
    bench.client = connect_to(meta, &exit_code);
    if (!bench.client) {
        bench_close_output(&output);
        return exit_code;
    }
    if (qmq_producer_new(bench.client, &wanted, &bench.producer) != QMQ_OK) {
        exit_code = report_error("publish");
    } else {
        interrupt_here();
        exit_code = run(&bench, &output);
    }
    qmq_producer_free(bench.producer);
    qmq_client_free(bench.client);
    bench_close_output(&output);
    return exit_code;
}

static int
run(struct bench_pub *bench, const struct bench_output *output)
{
    bench->body = malloc(bench->size);
    bench->names = calloc(bench->subjects, sizeof(*bench->names));
    if (!bench->body || !bench->names) {
        free(bench->body);
        free(bench->names);
        (void)Q_FAIL(Q_E_NOMEM);
        return report_error("publish");
    }
    memset(bench->body, 'q', bench->size);
    for (uint64_t index = 0; index < bench->subjects; index++)
        (void)bench_subject(bench->names[index], sizeof(*bench->names), index, bench->subjects);
    bench->run = q_clock_wall_ms(q_clock_system());
    q_hist_init(&bench->result.latency);
    bench->result.name = "pub";
    running = bench;

    uint64_t server_ns = bench_server_ns(bench->client);
    uint64_t cpu_ns = bench_cpu_ns();
    bench->begin_ns = now_ns();
    int exit_code = send_all(bench);
    (void)qmq_flush(bench->producer, FLUSH_MS);
    bench->result.took_ns = now_ns() - bench->begin_ns;
    bench->result.cpu_ns = bench_cpu_ns() - cpu_ns;
    bench->result.server_ns = bench_server_ns(bench->client) - server_ns;
    bench->result.bytes = bench->result.messages * bench->size;
    free(bench->body);
    free(bench->names);

    const struct bench_field fields[] = {
        { "size", bench->size },
        { "batch", bench->batch },
        { "subjects", bench->subjects },
        { "failed", bench->failed },
        { "maybe_duplicate", bench->maybe_duplicate },
    };
    bench_print(&bench->result, fields, sizeof(fields) / sizeof(fields[0]), output);
    if (exit_code == EXIT_OK && bench->failed > 0) {
        q_fault_adopt(&bench->first_failure);
        exit_code = report_error("publish %llu messages", (unsigned long long)bench->failed);
    }
    return exit_code;
}

static int
send_all(struct bench_pub *bench)
{
    struct qmq_outgoing message = { .body = { bench->body, bench->size } };
    uint64_t sent_ns = 0;

    for (uint64_t number = 0; !interrupt_signal(); number++) {
        if (number % LOOK_EVERY == 0) sent_ns = now_ns() - bench->begin_ns;
        if (sent_ns >= bench->duration_ns) break;

        struct bench_body head = {
            .run = bench->run,
            .subject = number % bench->subjects,
            .counter = number / bench->subjects,
        };
        memcpy(bench->body, &head, sizeof(head));
        void *context = (void *)(uintptr_t)sent_ns;
        int code =
            qmq_send(bench->producer, bench->names[head.subject], &message, on_sent, context);
        if (code != QMQ_OK) return report_error("publish");
    }
    return EXIT_OK;
}

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    struct bench_pub *bench = running;

    if (sent->code != QMQ_OK) {
        if (bench->failed++ == 0) bench->first_failure = *q_fault_last();
        return;
    }
    if (bench->result.messages++ % LOOK_EVERY == 0) bench->now_ns = now_ns();
    bench->maybe_duplicate += sent->maybe_duplicate;
    uint64_t sent_ns = bench->begin_ns + (uint64_t)(uintptr_t)context;
    q_hist_record(&bench->result.latency, q_max_u64(bench->now_ns, sent_ns) - sent_ns, 1);
}

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}
