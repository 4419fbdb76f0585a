/*
 * test_client_one_way.c: messages that may be lost, and that every one of them is counted: by a producer what it
 * dropped, by a broker what it did. With real brokers in this process, and with one that only listens.
 */
#include <pthread.h>

#include <broker/broker.h>
#include <common/answer.h>
#include <common/log.h>
#include <common/registrar.h>
#include <meta/meta.h>
#include <qmq/qmq.h>

#include "test_servers_common.h"

enum {
    FLUSH_MS = 60 * 1000,
    SEGMENT_BYTES = 4 * 1024 * 1024,
    ENOUGH_MS = 60 * 1000,
};

static const char broker_address[] = "inproc://one-way-test/broker";
static const char one_way_address[] = "inproc://one-way-test/one-way";

static struct meta *meta;
static struct broker *broker;
static struct qmq_client *client;
static struct qmq_producer *producer;
static atomic_bool is_registered;

/* Outcomes, as callbacks told them. */
static atomic_uint outcomes;
static atomic_int last_code;
static char last_message[300];
static char last_hint[300];

static void
on_ready(void *context)
{
    (void)context;
    atomic_store(&is_registered, true);
}

static void
wait_until(const atomic_bool *what)
{
    for (int ms = 0; ms < ENOUGH_MS && !atomic_load(what); ms++)
        usleep(1000);
    cr_assert(atomic_load(what));
}

static struct broker_options
options_of_broker(void)
{
    static char directory[100];
    (void)snprintf(directory, sizeof(directory), "%s/broker", test_directory);
    return (struct broker_options){
        .directory = directory,
        .url = broker_address,
        .one_way_url = one_way_address,
        .meta_url = meta_url(meta),
        .node_id = "n0",
        .cluster = "default",
        .broker_group = "g0",
        .program = "test 0",
        .version = "0",
        .roles = "broker",
        .store = { .log = { .create = true, .segment_bytes = SEGMENT_BYTES },
                   .disk_soft_bytes = 1,
                   .disk_hard_bytes = 1 },
        .on_ready = on_ready,
    };
}

static void
start_with(const struct broker_options *options)
{
    atomic_store(&is_registered, false);
    cr_assert_eq(broker_start(options, &broker), Q_OK, "%s", q_fault_last()->what);
    wait_until(&is_registered);
}

static void
start(void)
{
    const struct broker_options options = options_of_broker();
    start_with(&options);
}

static void
stop(void)
{
    cr_assert_eq(broker_stop(broker), Q_OK, "%s", q_fault_last()->what);
    broker = NULL;
}

static void
set_up(void)
{
    srv_log_set_level(SRV_ERROR);
    test_directory_make();
    const struct meta_options options = {
        .directory = test_directory,
        .url = "inproc://one-way-test/meta",
        .clock = q_clock_system(),
        .program = "test 0",
        .node_id = "n0",
        .roles = "meta",
    };
    cr_assert_eq(meta_start(&options, &meta), Q_OK);
    const struct qmq_client_options wanted = { .meta = meta_url(meta) };
    cr_assert_eq(qmq_connect(&wanted, &client), QMQ_OK, "%s", qmq_last_error().message);
}

static void
tear_down(void)
{
    qmq_producer_free(producer);
    qmq_client_free(client);
    if (broker) stop();
    meta_stop(meta);
    test_directory_remove();
}

TestSuite(client_one_way, .init = set_up, .fini = tear_down, .timeout = 240);

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    (void)context;
    if (sent->code != QMQ_OK) {
        atomic_store(&last_code, sent->code);
        (void)snprintf(last_message, sizeof(last_message), "%s", qmq_last_error().message);
        (void)snprintf(last_hint, sizeof(last_hint), "%s", qmq_last_error().hint);
    } else {
        cr_expect_eq(sent->sequence, UINT64_MAX);
    }
    atomic_fetch_add(&outcomes, 1);
}

static void
make_producer(struct qmq_producer_options options)
{
    options.one_way = true;
    cr_assert_eq(
        qmq_producer_new(client, &options, &producer), QMQ_OK, "%s", qmq_last_error().message);
}

static int
send_number(unsigned number)
{
    char body[40];
    const struct qmq_bytes tags[] = { { "log", 3 }, { "line", 4 } };
    const struct qmq_bytes key = { "k", 1 };
    const struct qmq_property property = { { "host", 4 }, { "a", 1 } };
    const struct qmq_outgoing message = {
        .body = { body, (size_t)snprintf(body, sizeof(body), "line %u of a log", number) },
        .tags = tags,
        .tag_count = 2,
        .keys = &key,
        .key_count = 1,
        .properties = &property,
        .property_count = 1,
    };
    return qmq_send(producer, "logs", &message, on_sent, NULL);
}

static void
send_numbers(unsigned first, unsigned count)
{
    for (unsigned number = first; number < first + count; number++)
        cr_assert_eq(send_number(number), QMQ_OK, "%s", qmq_last_error().message);
}

/* Whatever happened: every message is somewhere, and was told once. */
static struct qmq_producer_counts
counts_now(void)
{
    struct qmq_producer_counts counts;
    qmq_producer_counts(producer, &counts);
    cr_expect_eq(
        counts.sent,
        counts.waiting + counts.stored + counts.unknown + counts.refused + counts.unsent);
    if (counts.held_bytes == 0) cr_expect_eq(atomic_load(&outcomes), counts.sent);
    return counts;
}

static struct qmq_producer_counts
counts_at_end(void)
{
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK, "%s", qmq_last_error().message);
    struct qmq_producer_counts counts = counts_now();
    cr_expect_eq(counts.waiting, 0);
    return counts;
}

static void
note_broker(void *context, const struct qmq_broker_info *info)
{
    *(struct qmq_broker_info *)context = *info;
}

/* When nothing is in hand any more. */
static struct qmq_broker_info
broker_counts(void)
{
    struct qmq_broker_info info = { .one_way_came = 0 };
    for (int ms = 0; ms < ENOUGH_MS; ms += 10) {
        cr_assert_eq(qmq_brokers(client, note_broker, &info), QMQ_OK);
        uint64_t over =
            info.one_way_stored + info.one_way_busy + info.one_way_full + info.one_way_refused;
        if (info.one_way_came == over) return info;
        usleep(10 * 1000);
    }
    cr_assert(false, "one-way messages are in hand for ever");
    return info;
}

/* The lines from `first` on, in order, with tags, key and property. */
static void
expect_stored(unsigned first, unsigned count)
{
    const struct qmq_consumer_options wanted = { .subject = "logs", .group = "g" };
    struct qmq_consumer *consumer;
    cr_assert_eq(qmq_consumer_new(client, &wanted, &consumer), QMQ_OK);
    unsigned next = first;
    while (next < first + count) {
        struct qmq_batch *batch;
        cr_assert_eq(
            qmq_pull(consumer, 0, ENOUGH_MS, &batch), QMQ_OK, "%s", qmq_last_error().message);
        for (size_t i = 0; i < qmq_batch_count(batch); i++) {
            const struct qmq_message *message = qmq_batch_message(batch, i);
            const char *body = q_text("line %u of a log", next++);
            cr_assert_eq(message->body.size, strlen(body));
            cr_assert_eq(memcmp(message->body.data, body, strlen(body)), 0);
            struct qmq_bytes host;
            cr_assert(qmq_message_property(message, "host", &host));
        }
        cr_assert_eq(qmq_ack(consumer, batch, 0, qmq_batch_count(batch)), QMQ_OK);
        qmq_batch_free(batch);
    }
    qmq_consumer_free(consumer);
}

Test(client_one_way, what_is_sent_is_stored)
{
    start();
    make_producer((struct qmq_producer_options){ .compress = true });
    send_numbers(0, 5000);
    struct qmq_producer_counts counts = counts_at_end();
    cr_expect_eq(counts.stored, 5000);
    cr_expect_eq(counts.not_taken, 0);
    expect_stored(0, 5000);
    struct qmq_broker_info info = broker_counts();
    cr_expect_eq(info.one_way_came, 5000);
    cr_expect_eq(info.one_way_stored, 5000);
}

/* Without a broker a send never waits: what fits the queue goes when there is one, the rest is dropped. */
Test(client_one_way, no_broker_and_a_bounded_queue)
{
    start();
    make_producer(
        (struct qmq_producer_options){ .queue_messages_max = 100, .deadline_ms = ENOUGH_MS });
    send_numbers(0, 1);
    (void)counts_at_end();
    stop();

    unsigned taken = 0;
    for (unsigned number = 1; number <= 150; number++) {
        int code = send_number(number);
        cr_assert(code == QMQ_OK || code == QMQ_BUSY, "%d", code);
        taken += code == QMQ_OK;
    }
    struct qmq_producer_counts counts = counts_now();
    cr_expect_eq(counts.not_taken, 150 - taken);
    /* One request may have been on its way when the broker went. */
    cr_expect_leq(counts.waiting, 100);
    cr_expect_geq(counts.waiting + counts.unknown + counts.refused, 100);

    start();
    counts = counts_at_end();
    cr_expect_eq(counts.unsent, 0);
    cr_expect_geq(counts.stored, 1);
}

/* The memory is bounded, too, and a send waits for as long as it was asked to: once, not every time. */
Test(client_one_way, waits_once_while_nothing_goes_through)
{
    enum {
        BLOCK_MS = 500,
        MORE = 60
    };
    start();
    make_producer((struct qmq_producer_options){
        .memory_bytes_max = 64 * 1024, .block_ms = BLOCK_MS, .deadline_ms = ENOUGH_MS });
    send_numbers(0, 1);
    (void)counts_at_end();
    stop();

    const struct q_clock *clock = q_clock_system();
    uint64_t begun_ns = 0;
    int code = QMQ_OK;
    for (unsigned number = 1; code == QMQ_OK; number++) {
        begun_ns = q_clock_monotonic_ns(clock);
        code = send_number(number);
    }
    cr_expect_eq(code, QMQ_BUSY);
    uint64_t took_ns = q_clock_monotonic_ns(clock) - begun_ns;
    cr_expect_geq(took_ns, (BLOCK_MS - 1) * Q_NS_PER_MS);
    /* One message may take more than its body: a batch. */
    cr_expect_leq(counts_now().held_bytes, 80 * 1024);

    begun_ns = q_clock_monotonic_ns(clock);
    for (unsigned i = 0; i < MORE; i++)
        cr_expect_eq(send_number(i), QMQ_BUSY);
    took_ns = q_clock_monotonic_ns(clock) - begun_ns;
    cr_expect_lt(took_ns, (uint64_t)MORE * BLOCK_MS / 2 * Q_NS_PER_MS);
    cr_expect_eq(counts_now().not_taken, MORE + 1);
}

/* What no broker takes before its deadline ends, and says why. */
Test(client_one_way, a_deadline_without_a_broker)
{
    start();
    make_producer((struct qmq_producer_options){ .deadline_ms = 300 });
    send_numbers(0, 1);
    (void)counts_at_end();
    stop();
    send_numbers(1, 10);
    struct qmq_producer_counts counts = counts_at_end();
    cr_expect_eq(counts.unsent + counts.unknown + counts.refused, 10);
    cr_expect_geq(counts.unsent, 1);
    /* By what came last before it: nobody was there, or what was tried had no answer. */
    int code = atomic_load(&last_code);
    cr_expect(code == QMQ_UNAVAILABLE || code == QMQ_TIMED_OUT, "%s", last_message);
}

/* A broker that takes none is known by that, at once, with a remedy; so is one too old to say. */
Test(client_one_way, a_broker_that_takes_none)
{
    struct broker_options options = options_of_broker();
    options.one_way_url = NULL;
    start_with(&options);
    const struct qmq_producer_options wanted = { .one_way = true };
    cr_expect_eq(qmq_producer_new(client, &wanted, &producer), QMQ_UNAVAILABLE);
    cr_expect_str_eq(qmq_last_error().message, "none of 1 broker groups takes one-way messages");
    cr_expect_str_eq(
        qmq_last_error().hint,
        "start brokers without --one-way none; brokers and meta must be of this version");
    producer = NULL;
}

Test(client_one_way, nothing_is_delayed)
{
    start();
    make_producer((struct qmq_producer_options){ .block_ms = 1 });
    const struct qmq_outgoing message = { .body = { "x", 1 }, .due_ms = 1 };
    cr_expect_eq(qmq_send(producer, "logs", &message, on_sent, NULL), QMQ_INVALID);
    cr_expect_eq(counts_now().sent, 0);
}

/* What has an order key goes where that is at home; it takes part of the queue as all else. */
Test(client_one_way, order_keys)
{
    start();
    make_producer((struct qmq_producer_options){ .block_ms = ENOUGH_MS });
    for (unsigned i = 0; i < 100; i++) {
        char body[8];
        const struct qmq_outgoing message = {
            .body = { body, (size_t)snprintf(body, sizeof(body), "%u", i) },
            .order_key = { "host", 4 },
        };
        cr_assert_eq(qmq_send(producer, "logs", &message, on_sent, NULL), QMQ_OK);
    }
    cr_expect_eq(counts_at_end().stored, 100);
}

/* A disk that is full drops them at the broker, which counts; other calls are told. */
Test(client_one_way, a_full_disk)
{
    struct broker_options options = options_of_broker();
    options.store.disk_soft_bytes = options.store.disk_hard_bytes = UINT64_MAX / 4;
    start_with(&options);
    make_producer((struct qmq_producer_options){ .mode = QMQ_MODE_DEFAULT });
    send_numbers(0, 100);
    cr_expect_eq(counts_at_end().stored, 100); /* a broker had them */
    struct qmq_broker_info info = broker_counts();
    cr_expect_eq(info.one_way_came, 100);
    cr_expect_eq(info.one_way_full, 100);
}

/* More than a broker may have in hand is sent back, and waits in the producer, until its deadline; who waits for
 * answers is not kept up. */
Test(client_one_way, a_store_that_is_behind)
{
    struct broker_options options = options_of_broker();
    options.one_way_bytes_max = 1;
    start_with(&options);
    make_producer((struct qmq_producer_options){ .deadline_ms = 2000 });
    send_numbers(0, 10);

    struct qmq_producer *waits;
    cr_assert_eq(qmq_producer_new(client, NULL, &waits), QMQ_OK);
    const struct qmq_outgoing order = { .body = { "order", 5 } };
    cr_expect_eq(qmq_send_wait(waits, "orders", &order, NULL), QMQ_OK);
    qmq_producer_free(waits);

    struct qmq_producer_counts counts = counts_at_end();
    /* The last try may have been under way at the deadline. */
    cr_expect_eq(counts.unsent + counts.unknown, 10);
    struct qmq_broker_info info = broker_counts();
    cr_expect_geq(info.one_way_came, 1);
    cr_expect_eq(info.one_way_busy, info.one_way_came);
}

/* Not a broker: it says what it was told to. */
struct listener {
    struct qnet_server *server;
    struct srv_registrar *registrar;
    atomic_bool has_come;
    bool holds; /* the first publish, for ever */
    struct qnet_call *held;
};

static void
on_call(void *context, struct qnet_call *call)
{
    struct listener *listener = context;
    struct qproto_message message;
    cr_assert_eq(qproto_parse(qnet_call_request(call), &message), Q_OK);
    if (message.op == QPROTO_PUBLISH_ONE_WAY && listener->holds && !listener->held) {
        listener->held = call;
    } else if (message.op == QPROTO_PUBLISH_ONE_WAY) {
        srv_answer_error(call, message.op, Q_FAIL(Q_INVALID, .what = "told to"));
    } else {
        srv_answer_error(call, message.op, Q_FAIL(Q_UNKNOWN_OPERATION));
    }
    if (message.op == QPROTO_PUBLISH_ONE_WAY) atomic_store(&listener->has_come, true);
}

static void
listener_start(struct listener *listener)
{
    const struct qnet_server_options options = {
        .url = one_way_address,
        .context = listener,
        .on_call = on_call,
    };
    cr_assert_eq(qnet_server_new(&options, &listener->server), Q_OK);
    const struct srv_registrar_options registrar = {
        .meta_url = meta_url(meta),
        .node_id = "n0",
        .cluster = "default",
        .broker_group = "g0",
        .role = "broker",
        .address = broker_address,
        .one_way = one_way_address,
        .version = "0",
        .on_registered = on_ready,
    };
    atomic_store(&is_registered, false);
    cr_assert_eq(srv_registrar_new(&registrar, &listener->registrar), Q_OK);
    wait_until(&is_registered);
}

static void
listener_stop(struct listener *listener)
{
    if (listener->held) qnet_call_drop(listener->held);
    listener->held = NULL;
    qnet_server_free(listener->server);
    srv_registrar_free(listener->registrar);
}

/* What was on the wire when its connection was lost is not sent again, and called unknown. */
Test(client_one_way, a_lost_connection)
{
    struct listener listener = { .holds = true };
    listener_start(&listener);
    make_producer((struct qmq_producer_options){ .deadline_ms = 2000 });
    send_numbers(0, 1);
    wait_until(&listener.has_come);
    listener_stop(&listener);
    struct qmq_producer_counts counts = counts_at_end();
    cr_expect_eq(counts.unknown, 1);
    cr_expect_eq(atomic_load(&last_code), QMQ_OUTCOME_UNKNOWN, "%s", last_message);
}

/* What is refused for good is not tried again, and does not keep up the rest. */
Test(client_one_way, refused)
{
    struct listener listener = { .holds = false };
    listener_start(&listener);
    make_producer((struct qmq_producer_options){ .deadline_ms = ENOUGH_MS });
    send_numbers(0, 100);
    cr_expect_eq(counts_at_end().refused, 100);
    cr_expect_eq(atomic_load(&last_code), QMQ_INVALID, "%s", last_message);
    listener_stop(&listener);
}

/* A producer that ends tells of each message it still has. */
Test(client_one_way, an_end_with_messages)
{
    struct listener listener = { .holds = true };
    listener_start(&listener);
    make_producer((struct qmq_producer_options){ .deadline_ms = ENOUGH_MS });
    send_numbers(0, 1);
    wait_until(&listener.has_come);
    send_numbers(1, 999);
    qmq_producer_free(producer);
    producer = NULL;
    cr_expect_eq(atomic_load(&outcomes), 1000);
    listener_stop(&listener);
}

/* Damaged, numbered, empty: refused with an answer, counted, and nothing of it is stored. */
Test(client_one_way, what_is_no_publish)
{
    start();
    struct qnet_caller *caller = test_connect(broker_one_way_url(broker));
    const char *subject = "logs";
    Qmq__Wire__PublishRequest request = QMQ__WIRE__PUBLISH_REQUEST__INIT;
    uint8_t garbage[256];
    memset(garbage, 0x5a, sizeof(garbage));
    for (unsigned i = 0; i < 3; i++) {
        request.n_subjects = i;
        request.subjects = (char *[]){ (char *)subject, (char *)subject };
        request.envelopes_length = 128 * i;
        struct test_call *call = test_call_begin(
            caller, QPROTO_PUBLISH_ONE_WAY, &request.base, q_bytes_from(garbage, sizeof(garbage)));
        cr_expect_neq(test_call_wait(call), Q_OK);
        test_call_free(call);
    }
    /* What wants an answer is for the other address. */
    struct test_call *call =
        test_call_begin(caller, QPROTO_PUBLISH, &request.base, q_bytes_from(garbage, 256));
    cr_expect_eq(test_call_wait(call), Q_UNKNOWN_OPERATION);
    test_call_free(call);
    qnet_caller_free(caller);
    struct qmq_broker_info info = broker_counts();
    cr_expect_eq(info.one_way_invalid, 3);
    cr_expect_eq(info.one_way_came, 0);
}
