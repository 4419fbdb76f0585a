/*
 * test_broker_calls.c: a broker as its clients see it, with a real store in a temporary directory.
 */
#include <broker/broker.h>

#include <qbatch/batch.h>
#include <qbatch/build.h>

#include <signal.h>
#include <sys/resource.h>

#include <common/log.h>

#include "test_servers_common.h"

enum {
    SEGMENT_BYTES = 1024 * 1024,
};

static struct broker *broker;
static struct qnet_caller *caller;
static uint64_t request_sequence;
static uint8_t producer_id[16] = "a-test-of-broke";
static atomic_int failures;

static void
on_failed(void *context, const struct q_fault *fault)
{
    (void)context;
    cr_expect_lt(fault->err, 0);
    atomic_fetch_add(&failures, 1);
}

static void
start(void)
{
    static char directory[100];
    (void)snprintf(directory, sizeof(directory), "%s/broker", test_directory);
    const struct broker_options options = {
        .directory = directory,
        .url = "tcp://127.0.0.1:0",
        .node_id = "n0",
        .cluster = "default",
        .broker_group = "g0",
        .program = "test 0",
        .version = "0",
        .roles = "broker",
        .store.log = { .create = true, .segment_bytes = SEGMENT_BYTES },
        .on_failed = on_failed,
    };
    cr_assert_eq(broker_start(&options, &broker), Q_OK, "%s", q_fault_last()->what);
    caller = test_connect(broker_url(broker));
}

static void
stop(void)
{
    qnet_caller_free(caller);
    cr_assert_eq(broker_stop(broker), Q_OK);
}

static void
set_up(void)
{
    srv_log_set_level(SRV_ERROR);
    test_directory_make();
    start();
}

static void
tear_down(void)
{
    stop();
    test_directory_remove();
}

TestSuite(broker_calls, .init = set_up, .fini = tear_down, .timeout = 60);

/* The bytes of a publish: one batch of `count` messages "TEXT 0", "TEXT 1", … */
struct payload {
    uint8_t *data;
    size_t size;
    uint32_t envelopes_size;
    uint64_t sequence; /* of the request */
};

static struct payload
make_payload(const char *text, uint32_t count)
{
    struct qbatch_builder_options options = { .messages_max = 0 };
    memcpy(options.producer_id, producer_id, sizeof(options.producer_id));
    struct qbatch_builder *builder;
    cr_assert_eq(qbatch_builder_new(&options, &builder), Q_OK);
    for (uint32_t i = 0; i < count; i++) {
        const struct qbatch_message message = {
            .body = q_bytes_from_text(q_text("%s %u", text, i)),
            .time_ms = 1000000,
            .counter = i,
        };
        cr_assert_eq(qbatch_builder_add(builder, &message), Q_OK);
    }
    uint32_t envelope_size;
    uint32_t payload_size;
    cr_assert_eq(qbatch_builder_close(builder, &envelope_size, &payload_size), Q_OK);
    struct payload payload = {
        .data = malloc(envelope_size + payload_size),
        .size = envelope_size + payload_size,
        .envelopes_size = envelope_size,
        .sequence = ++request_sequence,
    };
    const struct qbatch_request_place place = {
        .request_sequence = payload.sequence,
        .request_count = 1,
    };
    qbatch_builder_write(builder, &place, payload.data, payload.data + envelope_size);
    qbatch_builder_free(builder);
    return payload;
}

static struct test_call *
publish_begin(const char *subject, const struct payload *payload, bool again)
{
    Qmq__Wire__PublishRequest request = QMQ__WIRE__PUBLISH_REQUEST__INIT;
    request.n_subjects = 1;
    request.subjects = (char **)&subject;
    request.envelopes_length = payload->envelopes_size;
    request.settled_below = payload->sequence;
    request.again = again;
    return test_call_begin(
        caller, QPROTO_PUBLISH, &request.base, q_bytes_from(payload->data, payload->size));
}

/* The first sequence. */
static uint64_t
publish(const char *subject, const char *text, uint32_t count)
{
    struct payload payload = make_payload(text, count);
    struct test_call *call = publish_begin(subject, &payload, false);
    cr_assert_eq(test_call_wait(call), Q_OK);
    const Qmq__Wire__PublishAnswer *answer = (const Qmq__Wire__PublishAnswer *)call->header;
    cr_assert_eq(answer->n_first_sequences, 1);
    cr_expect_eq(answer->mode, QLOG_MODE_SYNC);
    uint64_t sequence = answer->first_sequences[0];
    test_call_free(call);
    free(payload.data);
    return sequence;
}

static uint64_t
join(const char *subject, const char *consumer)
{
    uint8_t token[16] = { 1 };
    memcpy(token + 1, consumer, strnlen(consumer, 15));
    Qmq__Wire__JoinRequest request = QMQ__WIRE__JOIN_REQUEST__INIT;
    request.subject = (char *)subject;
    request.group = (char *)"group";
    request.consumer = (char *)consumer;
    request.token = (ProtobufCBinaryData){ .data = token, .len = sizeof(token) };
    struct test_call *call =
        test_call_begin(caller, QPROTO_JOIN, &request.base, (struct q_bytes){ .size = 0 });
    cr_assert_eq(test_call_wait(call), Q_OK);
    uint64_t session = ((Qmq__Wire__JoinAnswer *)call->header)->session;
    test_call_free(call);
    return session;
}

static struct test_call *
pull_begin(
    struct qnet_caller *by,
    const char *subject,
    const char *consumer,
    uint64_t session,
    uint32_t wait_ms)
{
    Qmq__Wire__PullRequest request = QMQ__WIRE__PULL_REQUEST__INIT;
    request.subject = (char *)subject;
    request.group = (char *)"group";
    request.consumer = (char *)consumer;
    request.session = session;
    request.messages_max = 1000;
    request.bytes_max = 1024 * 1024;
    request.wait_ms = wait_ms;
    request.received = 0;
    return test_call_begin(by, QPROTO_PULL, &request.base, (struct q_bytes){ .size = 0 });
}

/* What a pull brought: how many messages, the first one's body and place. */
struct pulled {
    uint32_t count;
    uint64_t pull_sequence;
    uint64_t sequence;
    uint32_t attempt;
    char first[64];
};

static struct pulled
pull_end(struct test_call *call)
{
    cr_assert_eq(test_call_wait(call), Q_OK);
    const Qmq__Wire__PullAnswer *answer = (const Qmq__Wire__PullAnswer *)call->header;
    struct pulled pulled = { .count = 0 };
    for (size_t i = 0; i < answer->n_runs; i++)
        pulled.count += answer->runs[i]->count;
    if (answer->n_runs > 0) {
        pulled.pull_sequence = answer->runs[0]->pull_sequence;
        pulled.sequence = answer->runs[0]->sequence;
        pulled.attempt = answer->runs[0]->attempt;

        struct q_bytes payload = call->message.payload;
        struct qbatch_set_walk set = {
            .envelopes = q_bytes_from(payload.data, answer->envelopes_length),
            .payloads = q_bytes_from(
                payload.data + answer->envelopes_length, payload.size - answer->envelopes_length),
        };
        struct qbatch batch;
        const uint8_t *content;
        cr_assert_eq(qbatch_set_next(&set, false, &batch, &content), Q_OK);
        cr_assert_eq(qbatch_check_payload(&batch, content), Q_OK);
        struct qbatch_walk walk;
        struct qbatch_view view;
        qbatch_walk_start(&walk, &batch, q_bytes_from(content, batch.payload_length));
        cr_assert_eq(qbatch_walk_next(&walk, true, &view), Q_OK);
        (void)snprintf(
            pulled.first, sizeof(pulled.first), "%.*s", (int)view.body.size,
            (const char *)view.body.data);
    }
    test_call_free(call);
    return pulled;
}

static struct pulled
pull(const char *subject, const char *consumer, uint64_t session)
{
    return pull_end(pull_begin(caller, subject, consumer, session, 0));
}

static enum q_err
ack(const char *subject, const char *consumer, uint64_t session, uint64_t first, uint64_t last)
{
    Qmq__Wire__Range range = QMQ__WIRE__RANGE__INIT;
    range.first = first;
    range.last = last;
    Qmq__Wire__Range *ranges = &range;
    Qmq__Wire__AckRequest request = QMQ__WIRE__ACK_REQUEST__INIT;
    request.subject = (char *)subject;
    request.group = (char *)"group";
    request.consumer = (char *)consumer;
    request.session = session;
    request.n_ranges = 1;
    request.ranges = &ranges;
    struct test_call *call =
        test_call_begin(caller, QPROTO_ACK, &request.base, (struct q_bytes){ .size = 0 });
    enum q_err err = test_call_wait(call);
    test_call_free(call);
    return err;
}

/* What was published is pulled as it was, with its sequences, and is not pulled again once it is
 * acknowledged. */
Test(broker_calls, publish_pull_ack)
{
    cr_expect_eq(publish("orders", "order", 10), 0);
    cr_expect_eq(publish("orders", "later", 5), 10);

    uint64_t session = join("orders", "c1");
    struct pulled first = pull("orders", "c1", session);
    cr_expect_eq(first.count, 15);
    cr_expect_eq(first.sequence, 0);
    cr_expect_eq(first.attempt, 1);
    cr_expect_str_eq(first.first, "order 0");
    cr_expect_eq(ack("orders", "c1", session, first.pull_sequence, first.pull_sequence + 14), Q_OK);
    cr_expect_eq(pull("orders", "c1", session).count, 0);

    cr_expect_eq(publish("orders", "more", 1), 15);
    cr_expect_eq(pull("orders", "c1", session).count, 1);
}

/* A request that is sent again is stored once, and told to be a duplicate, while its first sending is
 * under way and later. */
Test(broker_calls, a_repeated_publish)
{
    struct payload payload = make_payload("order", 3);
    struct test_call *calls[3];
    calls[0] = publish_begin("orders", &payload, false);
    calls[1] = publish_begin("orders", &payload, true);
    for (unsigned i = 0; i < 3; i++) {
        if (i == 2) calls[2] = publish_begin("orders", &payload, true);
        cr_assert_eq(test_call_wait(calls[i]), Q_OK);
        const Qmq__Wire__PublishAnswer *answer = (const Qmq__Wire__PublishAnswer *)calls[i]->header;
        cr_assert_eq(answer->n_first_sequences, 1);
        cr_expect_eq(answer->first_sequences[0], 0);
        cr_expect_eq(answer->duplicate, i > 0);
        cr_expect_eq(answer->mode, QLOG_MODE_SYNC);
    }
    for (unsigned i = 0; i < 3; i++)
        test_call_free(calls[i]);
    free(payload.data);
    cr_expect_eq(publish("orders", "later", 1), 3);

    /* One that nobody can say whether it is stored. */
    memset(producer_id, 7, sizeof(producer_id));
    payload = make_payload("unknown", 1);
    calls[0] = publish_begin("orders", &payload, true);
    cr_expect_eq(test_call_wait(calls[0]), Q_UNKNOWN_PRODUCER);
    test_call_free(calls[0]);
    free(payload.data);
}

/* A pull that waits is answered as soon as its subject has a message, and by no other subject. */
Test(broker_calls, a_waiting_pull_is_woken)
{
    uint64_t session = join("orders", "c1");
    struct test_call *call = pull_begin(caller, "orders", "c1", session, PATIENCE_MS);
    publish("others", "other", 1);
    usleep(50000);
    cr_expect(!test_call_is_over(call));
    publish("orders", "order", 1);
    struct pulled pulled = pull_end(call);
    cr_expect_eq(pulled.count, 1);
    cr_expect_str_eq(pulled.first, "order 0");
}

/* A wait that nothing ends is over in time, without messages and without an error. */
Test(broker_calls, a_waiting_pull_times_out)
{
    uint64_t session = join("orders", "c1");
    cr_expect_eq(pull_end(pull_begin(caller, "orders", "c1", session, 30)).count, 0);
}

/* A waiting pull whose client has gone takes no messages: another consumer gets them all. */
Test(broker_calls, waiting_pulls_of_a_gone_client_take_nothing)
{
    uint64_t gone_session = join("orders", "gone");
    uint64_t session = join("orders", "c1");
    struct qnet_caller *gone = test_connect(broker_url(broker));
    struct test_call *call = pull_begin(gone, "orders", "gone", gone_session, PATIENCE_MS);
    usleep(50000);
    qnet_caller_free(gone);
    cr_expect_eq(test_call_wait(call), Q_STOPPING);
    test_call_free(call);
    usleep(50000);

    publish("orders", "order", 7);
    cr_expect_eq(pull_end(pull_begin(caller, "orders", "c1", session, PATIENCE_MS)).count, 7);
}

/* What was handed out and not acknowledged comes again after a restart; what was acknowledged does
 * not. */
Test(broker_calls, unacknowledged_messages_come_again_after_a_restart)
{
    publish("orders", "done", 10);
    uint64_t session = join("orders", "c1");
    struct pulled first = pull("orders", "c1", session);
    cr_expect_eq(first.count, 10);
    cr_expect_eq(ack("orders", "c1", session, first.pull_sequence, first.pull_sequence + 9), Q_OK);
    publish("orders", "open", 3);
    cr_expect_eq(pull("orders", "c1", session).count, 3);

    stop();
    start();
    session = join("orders", "c1");
    struct pulled again = pull("orders", "c1", session);
    cr_expect_eq(again.count, 3);
    cr_expect_eq(again.sequence, 10);
    cr_expect_str_eq(again.first, "open 0");
}

/* A byte that changed on its way is found before anything is stored. */
Test(broker_calls, a_damaged_publish_is_refused)
{
    struct payload payload = make_payload("order", 3);
    payload.data[payload.envelopes_size + 5] ^= 1;
    struct test_call *call = publish_begin("orders", &payload, false);
    cr_expect_eq(test_call_wait(call), Q_E_CORRUPT);
    test_call_free(call);
    payload.data[payload.envelopes_size + 5] ^= 1;

    payload.envelopes_size += 8;
    call = publish_begin("orders", &payload, false);
    cr_expect_neq(test_call_wait(call), Q_OK);
    test_call_free(call);
    payload.envelopes_size = UINT32_MAX;
    call = publish_begin("orders", &payload, false);
    cr_expect_eq(test_call_wait(call), Q_INVALID);
    test_call_free(call);
    free(payload.data);
    cr_expect_eq(publish("orders", "order", 1), 0);
}

/* Every wrong call gets an error of its own that names what is wrong. */
Test(broker_calls, wrong_calls_are_answered)
{
    struct payload payload = make_payload("order", 1);
    struct test_call *call = publish_begin("no spaces", &payload, false);
    cr_expect_eq(test_call_wait(call), Q_INVALID);
    cr_expect(strstr(test_call_error(call)->message, "subject"));
    test_call_free(call);
    free(payload.data);

    call = pull_begin(caller, "orders", "nobody", 12345, 0);
    enum q_err err = test_call_wait(call);
    cr_expect(err == Q_NOT_FOUND || err == Q_NO_SESSION, "%s", q_err_name(err));
    cr_expect(test_call_error(call)->message[0]);
    test_call_free(call);

    const Qmq__Wire__Empty nothing = QMQ__WIRE__EMPTY__INIT;
    call = test_call_begin(caller, QPROTO_META_NODES, &nothing.base, (struct q_bytes){ .size = 0 });
    cr_expect_eq(test_call_wait(call), Q_UNKNOWN_OPERATION);
    cr_expect(strstr(test_call_error(call)->hint, "meta"));
    test_call_free(call);
}

/* A stop in the middle of things answers everything: what was stored is there afterwards, and who
 * waits is told. */
Test(broker_calls, stop_answers_everything)
{
    enum {
        CALLS = 200
    };
    uint64_t session = join("empty", "c1");
    struct test_call *waiting = pull_begin(caller, "empty", "c1", session, PATIENCE_MS);
    struct test_call *calls[CALLS];
    struct payload payload = make_payload("order", 10);
    for (int i = 0; i < CALLS; i++) {
        free(payload.data);
        payload = make_payload("order", 10);
        calls[i] = publish_begin("orders", &payload, false);
    }
    cr_assert_eq(broker_stop(broker), Q_OK);

    uint64_t stored = 0;
    for (int i = 0; i < CALLS; i++) {
        enum q_err err = test_call_wait(calls[i]);
        stored += err == Q_OK;
        cr_expect(err == Q_OK || q_err_retryable(err), "%s", q_err_name(err));
        test_call_free(calls[i]);
    }
    free(payload.data);
    enum q_err err = test_call_wait(waiting);
    cr_expect(q_err_retryable(err), "%s", q_err_name(err));
    test_call_free(waiting);
    qnet_caller_free(caller);

    start();
    cr_expect_geq(publish("orders", "last", 1), stored * 10);
}

static void
limit_files(rlim_t bytes)
{
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* After a failed write nothing is acknowledged any more, everything is answered, and the broker
 * says once that it is broken. Started again it has all that it had acknowledged. */
Test(broker_calls, a_failed_write_is_final)
{
    enum {
        CALLS = 20
    };
    publish("orders", "kept", 10);
    cr_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    limit_files(4096);

    struct test_call *calls[CALLS];
    for (int i = 0; i < CALLS; i++) {
        struct payload payload = make_payload("lost", 1);
        calls[i] = publish_begin("orders", &payload, false);
        free(payload.data);
    }
    for (int ms = 0; ms < PATIENCE_MS && !atomic_load(&failures); ms++) {
        usleep(1000);
    }
    cr_expect_eq(atomic_load(&failures), 1);
    enum q_err stop_err = broker_stop(broker);
    (void)stop_err; /* clean or not: the store was broken */
    for (int i = 0; i < CALLS; i++) {
        cr_expect_neq(test_call_wait(calls[i]), Q_OK);
        test_call_free(calls[i]);
    }
    qnet_caller_free(caller);

    limit_files(RLIM_INFINITY);
    start();
    uint64_t session = join("orders", "c1");
    struct pulled pulled = pull("orders", "c1", session);
    cr_expect_eq(pulled.count, 10);
    cr_expect_str_eq(pulled.first, "kept 0");
    cr_expect_eq(publish("orders", "new", 1), 10);
}
