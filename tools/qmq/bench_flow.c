/*
 * bench_flow.c: `qmq bench e2e`, `fanout` and `backlog`: messages from producers to consumers, each of
 * them counted.
 *
 *   e2e      published at a rate, and consumed as they come. A message's latency begins when it was due
 *            to be sent, whether it was sent then or not (an open loop), and ends in the handler
 *   backlog  published as fast as it goes; then a group consumes all of it
 *   fanout   the same, by ten groups at the same time
 *
 * Groups are new and begin where the subject ends. Producers and consumers are clients of their own,
 * with connections of their own, in this process.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

#include "bench.h"
#include "interrupt.h"

enum {
    GROUPS_MAX = 100,
    CLIENTS_MAX = 64,
    MEMORY_BYTES = 64 * 1024 * 1024,
    BODY_MAX = 4 * 1024 * 1024 - 4,
    FLUSH_MS = 60 * 1000,
    STOP_MS = 30 * 1000,
    IDLE_S_MAX = 10, /* nothing has come for so long: nothing comes */
    LOOK_US = 1000,
    WARM_S = 1,
    BITS = 64,
    NUMBERS_FIRST = 1024 * 1024
};

/* Begins every body. */
struct body {
    struct bench_body head; /* `subject` is the producer's number */
    uint64_t due_ns;
};

struct flow {
    const char *name;
    bool is_live;
    uint64_t size;
    uint64_t batch;
    uint64_t rate; /* messages a second, of all producers; 0: as fast as it goes */
    uint64_t subjects;
    uint64_t group_count;
    uint64_t clients;
    uint64_t duration_ns;
    struct qmq_producer_options producer;
    const char *meta;

    uint64_t run;
    uint64_t begin_ns;
    struct producer *producers;
    struct group *groups;
    struct consumer *consumers;
    atomic_int exit_code;
};

struct producer {
    struct flow *flow;
    uint64_t number;
    pthread_t thread;
    struct qmq_client *client;
    struct qmq_producer *producer;
    uint64_t sent;
    _Atomic uint64_t stored;
    _Atomic uint64_t failed;
};

/* What came to a group. A bit for each message of each producer. */
struct group {
    struct flow *flow;
    char name[32];
    pthread_mutex_t lock;
    struct {
        uint64_t *seen;
        uint64_t bits;
        uint64_t highest; /* counter + 1 */
    } of[CLIENTS_MAX];
    uint64_t distinct;
    uint64_t duplicate;
    uint64_t out_of_order;
    uint64_t last_ns;
    struct q_hist latency;
};

struct consumer {
    struct group *group;
    struct qmq_client *client;
    struct qmq_push *push;
};

static int flow_run(struct flow *flow, const struct bench_output *output);
static bool open_all(struct flow *flow);
static void close_all(struct flow *flow);
static bool open_client(const struct flow *flow, struct qmq_client **ret_client);
static bool open_consumer(struct flow *flow, struct consumer *consumer, uint64_t subject);
static void produce(struct flow *flow);
static void *produce_main(void *argument);
static bool wait_until_due(uint64_t due_ns);
static void on_sent(void *context, const struct qmq_sent *sent);
static void consume(struct flow *flow);
static int handle(void *context, const struct qmq_message *message, struct qmq_delivery *delivery);
static bool note(struct group *group, const struct body *body, uint64_t now_ns);
static void on_trouble(void *context, const struct qmq_trouble *trouble);
static uint64_t stored(const struct flow *flow);
static int report(
    struct flow *flow, struct bench_result *result, const struct bench_output *output);

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}

static int
parse_and_run(const struct command *command, struct flow *flow, int argc, char **argv)
{
    const char *format = "text";
    const char *compare = NULL;
    const char *ack = "sync";
    flow->meta = meta_default();
    const struct q_opt options[] = {
        { "size", 0, Q_OPT_SIZE, &flow->size, "B", "bytes of a body (128)", sizeof(struct body),
          BODY_MAX },
        { "batch", 0, Q_OPT_NUMBER, &flow->batch, "N", "messages of a batch at most (512)", 1,
          10000 },
        { "rate", 0, Q_OPT_NUMBER, &flow->rate, "R", "messages a second of all producers", 1,
          100000000 },
        { "subjects", 0, Q_OPT_NUMBER, &flow->subjects, "N", "in turn (1)", 1, BENCH_SUBJECTS_MAX },
        { "groups", 0, Q_OPT_NUMBER, &flow->group_count, "N", "each gets every message", 1,
          GROUPS_MAX },
        { "clients", 0, Q_OPT_NUMBER, &flow->clients, "N",
          "producers, and consumers of each group and subject (1)", 1, CLIENTS_MAX },
        { "ack", 0, Q_OPT_TEXT, &ack, "MODE",
          "sync: acknowledged when flushed; async: when written; none: one way (sync)", 0, 0 },
        { "duration", 0, Q_OPT_DURATION, &flow->duration_ns, "D", "of publishing (5s)", 1, 0 },
        BENCH_OUTPUT_OPTIONS(format, compare),
        META_OPTION(flow->meta),
    };
    struct q_opts_result result;
    int exit_code;
    struct bench_output output;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 0, argc, argv, &result,
            &exit_code))
        return exit_code;
    flow->producer = (struct qmq_producer_options){
        .batch_messages_max = (uint32_t)flow->batch,
        .memory_bytes_max = MEMORY_BYTES,
    };
    if (!bench_ack(command, ack, &flow->producer)) return EXIT_USAGE;
    if (!bench_open_output(command, format, flow->name, compare, &output)) return EXIT_USAGE;
    interrupt_block();
    exit_code = flow_run(flow, &output);
    bench_close_output(&output);
    return exit_code;
}

static struct flow
flow_of(const char *name)
{
    return (struct flow){
        .name = name,
        .size = 128,
        .batch = 512,
        .subjects = 1,
        .group_count = 1,
        .clients = 1,
        .duration_ns = 5 * (uint64_t)Q_NS_PER_S,
    };
}

int
bench_e2e_run(const struct command *command, int argc, char **argv)
{
    struct flow flow = flow_of("e2e");
    flow.is_live = true;
    flow.rate = 1000;
    return parse_and_run(command, &flow, argc, argv);
}

int
bench_backlog_run(const struct command *command, int argc, char **argv)
{
    struct flow flow = flow_of("backlog");
    return parse_and_run(command, &flow, argc, argv);
}

int
bench_fanout_run(const struct command *command, int argc, char **argv)
{
    struct flow flow = flow_of("fanout");
    flow.group_count = 10;
    return parse_and_run(command, &flow, argc, argv);
}

static int
flow_run(struct flow *flow, const struct bench_output *output)
{
    struct bench_result result = { .name = flow->name };
    flow->run = q_clock_wall_ms(q_clock_system());
    flow->producers = calloc(flow->clients, sizeof(*flow->producers));
    flow->groups = calloc(flow->group_count, sizeof(*flow->groups));
    flow->consumers =
        calloc(flow->group_count * flow->subjects * flow->clients, sizeof(*flow->consumers));
    if (!flow->producers || !flow->groups || !flow->consumers) {
        (void)Q_FAIL(Q_E_NOMEM);
        atomic_store(&flow->exit_code, report_error("measure"));
    } else if (open_all(flow)) {
        interrupt_here();
        if (!flow->is_live) produce(flow);
        struct qmq_client *asked = flow->producers[0].client;
        uint64_t server_ns = bench_server_ns(asked);
        uint64_t cpu_ns = bench_cpu_ns();
        uint64_t begin_ns = now_ns();
        if (flow->is_live) produce(flow);
        consume(flow);
        uint64_t last_ns = begin_ns;
        for (uint64_t i = 0; i < flow->group_count; i++)
            last_ns = q_max_u64(last_ns, flow->groups[i].last_ns);
        result.took_ns = last_ns - begin_ns;
        result.cpu_ns = bench_cpu_ns() - cpu_ns;
        result.server_ns = bench_server_ns(asked) - server_ns;
    }
    int exit_code = atomic_load(&flow->exit_code);
    if (exit_code == EXIT_OK) exit_code = report(flow, &result, output);
    close_all(flow);
    return exit_code;
}

/* --- Opening and closing. */

static bool
fail(struct flow *flow, const char *what)
{
    int none = EXIT_OK;
    int exit_code = report_error("%s", what);
    (void)atomic_compare_exchange_strong(&flow->exit_code, &none, exit_code);
    return false;
}

static bool
open_all(struct flow *flow)
{
    for (uint64_t i = 0; i < flow->clients; i++) {
        struct producer *producer = &flow->producers[i];
        producer->flow = flow;
        producer->number = i;
        if (!open_client(flow, &producer->client) ||
            qmq_producer_new(producer->client, &flow->producer, &producer->producer) != QMQ_OK)
            return fail(flow, "publish");
    }
    struct consumer *consumer = flow->consumers;
    for (uint64_t i = 0; i < flow->group_count; i++) {
        struct group *group = &flow->groups[i];
        group->flow = flow;
        pthread_mutex_init(&group->lock, NULL);
        q_hist_init(&group->latency);
        (void)snprintf(
            group->name, sizeof(group->name), "bench-%llx-%llu", (unsigned long long)flow->run,
            (unsigned long long)i);
        for (uint64_t j = 0; j < flow->subjects * flow->clients; j++) {
            consumer->group = group;
            if (!open_consumer(flow, consumer++, j % flow->subjects)) return false;
        }
    }
    return true;
}

static bool
open_client(const struct flow *flow, struct qmq_client **ret_client)
{
    const struct qmq_client_options options = { .meta = flow->meta, .program = "qmq bench" };
    return qmq_connect(&options, ret_client) == QMQ_OK;
}

/* What is not live waits until all is published. */
static bool
open_consumer(struct flow *flow, struct consumer *consumer, uint64_t subject)
{
    char name[32];
    const struct qmq_consumer_options wanted = {
        .subject = bench_subject(name, sizeof(name), subject, flow->subjects),
        .group = consumer->group->name,
        .start = QMQ_START_LATEST,
    };
    const struct qmq_push_options options = {
        .consumer = &wanted,
        .handler = handle,
        .context = consumer->group,
        .prefetch_messages = 8192,
        .trouble = on_trouble,
        .trouble_context = flow,
        .is_paused = !flow->is_live,
    };
    if (open_client(flow, &consumer->client) &&
        qmq_push_new(consumer->client, &options, &consumer->push) == QMQ_OK)
        return true;
    return fail(flow, "consume");
}

static void
close_all(struct flow *flow)
{
    uint64_t consumers = flow->consumers ? flow->group_count * flow->subjects * flow->clients : 0;
    for (uint64_t i = 0; i < consumers; i++) {
        qmq_push_free(flow->consumers[i].push);
        qmq_client_free(flow->consumers[i].client);
    }
    for (uint64_t i = 0; flow->producers && i < flow->clients; i++) {
        qmq_producer_free(flow->producers[i].producer);
        qmq_client_free(flow->producers[i].client);
    }
    for (uint64_t i = 0; flow->groups && i < flow->group_count; i++)
        for (uint64_t j = 0; j < flow->clients; j++)
            free(flow->groups[i].of[j].seen);
    free(flow->producers);
    free(flow->groups);
    free(flow->consumers);
}

/* --- Publishing. */

static void
produce(struct flow *flow)
{
    uint64_t started = 0;
    flow->begin_ns = now_ns();
    for (; started < flow->clients; started++) {
        struct producer *producer = &flow->producers[started];
        if (pthread_create(&producer->thread, NULL, produce_main, producer) == 0) continue;
        (void)Q_FAIL(Q_E_NOMEM, .what = "a thread can't be started");
        (void)fail(flow, "publish");
        break;
    }
    for (uint64_t i = 0; i < started; i++)
        (void)pthread_join(flow->producers[i].thread, NULL);
}

static void *
produce_main(void *argument)
{
    struct producer *producer = argument;
    struct flow *flow = producer->flow;
    uint8_t *bytes = calloc(1, flow->size);
    char(*names)[32] = calloc(flow->subjects, sizeof(*names));
    if (!bytes || !names) {
        (void)Q_FAIL(Q_E_NOMEM);
        (void)fail(flow, "publish");
    }
    for (uint64_t i = 0; names && i < flow->subjects; i++)
        (void)bench_subject(names[i], sizeof(names[i]), i, flow->subjects);
    /* Each producer has its share of the rate. */
    double gap_ns =
        flow->rate ? (double)flow->clients * (double)Q_NS_PER_S / (double)flow->rate : 0;
    while (atomic_load(&flow->exit_code) == EXIT_OK && !interrupt_signal()) {
        uint64_t due_ns =
            flow->rate ? flow->begin_ns + (uint64_t)((double)producer->sent * gap_ns) : now_ns();
        if (due_ns >= flow->begin_ns + flow->duration_ns) break;
        if (flow->rate && !wait_until_due(due_ns)) break;
        const struct body body = {
            .head = { .run = flow->run, .subject = producer->number, .counter = producer->sent },
            .due_ns = due_ns,
        };
        memcpy(bytes, &body, sizeof(body));
        const struct qmq_outgoing message = { .body = { bytes, flow->size } };
        const char *subject = names[producer->sent % flow->subjects];
        if (qmq_send(producer->producer, subject, &message, on_sent, producer) != QMQ_OK)
            (void)fail(flow, "publish");
        else
            producer->sent++;
    }
    if (qmq_flush(producer->producer, FLUSH_MS) != QMQ_OK) (void)fail(flow, "publish");
    free(bytes);
    free(names);
    return NULL;
}

static bool
wait_until_due(uint64_t due_ns)
{
    uint64_t now = now_ns();
    if (due_ns <= now) return true;
    const struct timespec until = {
        .tv_sec = (time_t)(due_ns / Q_NS_PER_S),
        .tv_nsec = (long)(due_ns % Q_NS_PER_S),
    };
    (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    return !interrupt_signal();
}

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    struct producer *producer = context;
    if (sent->code == QMQ_OK)
        atomic_fetch_add_explicit(&producer->stored, 1, memory_order_relaxed);
    else if (atomic_fetch_add_explicit(&producer->failed, 1, memory_order_relaxed) == 0)
        (void)fail(producer->flow, "publish");
}

static uint64_t
stored(const struct flow *flow)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < flow->clients; i++)
        count += atomic_load(&flow->producers[i].stored);
    return count;
}

/* --- Consuming. */

/* Until each group has everything, or nothing has come for a while; then until it is acknowledged. */
static void
consume(struct flow *flow)
{
    uint64_t consumers = flow->group_count * flow->subjects * flow->clients;
    for (uint64_t i = 0; i < consumers; i++)
        qmq_push_resume(flow->consumers[i].push);
    uint64_t wanted = stored(flow) * flow->group_count;
    uint64_t before = 0;
    uint64_t moved_ns = now_ns();
    while (atomic_load(&flow->exit_code) == EXIT_OK && !interrupt_signal()) {
        uint64_t came = 0;
        for (uint64_t i = 0; i < flow->group_count; i++) {
            pthread_mutex_lock(&flow->groups[i].lock);
            came += flow->groups[i].distinct;
            pthread_mutex_unlock(&flow->groups[i].lock);
        }
        uint64_t now = now_ns();
        if (came > before) moved_ns = now;
        before = came;
        if (came >= wanted || now - moved_ns > IDLE_S_MAX * (uint64_t)Q_NS_PER_S) break;
        (void)usleep(LOOK_US);
    }
    for (uint64_t i = 0; i < consumers; i++)
        if (qmq_push_stop(flow->consumers[i].push, STOP_MS) != QMQ_OK)
            (void)fail(flow, "acknowledge");
}

static int
handle(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    struct group *group = context;
    struct body body;
    uint64_t now = now_ns();
    (void)delivery;
    if (message->body.size < sizeof(body)) return 0;
    memcpy(&body, message->body.data, sizeof(body));
    if (body.head.run != group->flow->run || body.head.subject >= group->flow->clients) return 0;
    pthread_mutex_lock(&group->lock);
    bool is_noted = note(group, &body, now);
    pthread_mutex_unlock(&group->lock);
    if (is_noted) return 0;
    (void)Q_FAIL(Q_E_NOMEM);
    (void)fail(group->flow, "count messages");
    return 1;
}

static bool
note(struct group *group, const struct body *body, uint64_t now)
{
    uint64_t counter = body->head.counter;
    uint64_t **seen = &group->of[body->head.subject].seen;
    uint64_t *bits = &group->of[body->head.subject].bits;
    uint64_t *highest = &group->of[body->head.subject].highest;
    if (counter >= *bits) {
        uint64_t more = q_max_u64(*bits, NUMBERS_FIRST);
        while (more <= counter)
            more *= 2;
        uint64_t *grown = realloc(*seen, more / 8);
        if (!grown) return false;
        memset(grown + *bits / BITS, 0, (more - *bits) / 8);
        *seen = grown;
        *bits = more;
    }
    uint64_t bit = UINT64_C(1) << (counter % BITS);
    if ((*seen)[counter / BITS] & bit) {
        group->duplicate++;
        return true;
    }
    (*seen)[counter / BITS] |= bit;
    group->distinct++;
    group->last_ns = now;
    if (counter < *highest) group->out_of_order++;
    *highest = q_max_u64(*highest, counter + 1);
    /* The first second opens connections and finds routes. */
    bool is_warm = body->due_ns >= group->flow->begin_ns + WARM_S * (uint64_t)Q_NS_PER_S;
    if (group->flow->is_live && is_warm) q_hist_record(&group->latency, now - body->due_ns, 1);
    return true;
}

/* With this thread's last error. What is tried again is not the end of it. */
static void
on_trouble(void *context, const struct qmq_trouble *trouble)
{
    if (!trouble->is_tried_again) (void)fail(context, "take or acknowledge messages");
}

/* --- What came of it. */

static int
report(struct flow *flow, struct bench_result *result, const struct bench_output *output)
{
    uint64_t lost = 0;
    uint64_t duplicate = 0;
    uint64_t out_of_order = 0;
    uint64_t published = stored(flow);
    q_hist_init(&result->latency);
    for (uint64_t i = 0; i < flow->group_count; i++) {
        const struct group *group = &flow->groups[i];
        result->messages += group->distinct + group->duplicate;
        lost += published - q_min_u64(published, group->distinct);
        duplicate += group->duplicate;
        out_of_order += group->out_of_order;
        q_hist_merge(&result->latency, &group->latency);
    }
    result->bytes = result->messages * flow->size;
    /* Several consumers, or subjects, have no order between them. */
    bool has_order = flow->clients * flow->subjects == 1;
    const struct bench_field fields[] = {
        { "size", flow->size },          { "batch", flow->batch },
        { "rate", flow->rate },          { "subjects", flow->subjects },
        { "groups", flow->group_count }, { "clients", flow->clients },
        { "published", published },      { "lost", lost },
        { "duplicate", duplicate },      { "out_of_order", has_order ? out_of_order : 0 },
    };
    bench_print(result, fields, sizeof(fields) / sizeof(fields[0]), output);
    bool is_right = lost + duplicate == 0 && (!has_order || out_of_order == 0);
    return is_right ? EXIT_OK : EXIT_FAILED;
}
