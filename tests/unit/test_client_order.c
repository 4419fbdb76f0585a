/*
 * A producer and several broker groups: messages with an order key have one home, the others take
 * turns, and what fails is left out.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "fake_node.h"

enum {
    FLUSH_MS = 60000,
    KEYS = 40,
};

/* What became of the messages of a key; callbacks come one after another. */
struct key {
    char home[16]; /* of all of them */
    atomic_uint stored;
    atomic_uint failed;
    uint64_t last_sequence;
};

static struct key keys[KEYS];
static struct key none;

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    struct key *key = context;
    if (sent->code != QMQ_OK) {
        atomic_fetch_add(&key->failed, 1);
        return;
    }
    if (key != &none) {
        if (key->home[0] == '\0')
            (void)snprintf(key->home, sizeof(key->home), "%s", sent->broker_group);
        cr_assert_str_eq(sent->broker_group, key->home, "a key has moved");
        cr_assert(atomic_load(&key->stored) == 0 || sent->sequence > key->last_sequence);
        key->last_sequence = sent->sequence;
    }
    atomic_fetch_add(&key->stored, 1);
}

/* Three nodes, of which the first is meta as well; they begin with two broker groups. */
static struct fake_node *a;
static struct fake_node *b;
static struct fake_node *c;
static struct qmq_client *client;
static struct qmq_producer *producer;

static void
start(const struct qmq_producer_options *options)
{
    a = fake_new("a");
    b = fake_new("b");
    c = fake_new("c");
    fake_set_homes(a, (const char *const[]){ "a", "b" }, 2);
    fake_list(a, b, false);
    struct qmq_client_options client_options = { .meta = fake_url(a), .timeout_ms = 5000 };
    cr_assert_eq(qmq_connect(&client_options, &client), QMQ_OK, "%s", qmq_last_error().message);
    cr_assert_eq(qmq_producer_new(client, options, &producer), QMQ_OK);
}

static void
stop(void)
{
    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(c);
    fake_free(b);
    fake_free(a);
}

static void
send_key(unsigned number)
{
    char text[16];
    struct qmq_outgoing message = {
        .body = { "x", 1 },
        .order_key = { text, (size_t)snprintf(text, sizeof(text), "key-%u", number) },
    };
    cr_assert_eq(qmq_send(producer, FAKE_SUBJECT, &message, on_sent, &keys[number]), QMQ_OK);
}

static void
send_none(unsigned count)
{
    struct qmq_outgoing message = { .body = { "x", 1 } };
    for (unsigned index = 0; index < count; index++)
        cr_assert_eq(qmq_send(producer, FAKE_SUBJECT, &message, on_sent, &none), QMQ_OK);
}

static void
flush(void)
{
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK, "%s", qmq_last_error().message);
}

static unsigned
count_keys(const char *home)
{
    unsigned count = 0;
    for (unsigned number = 0; number < KEYS; number++)
        count += strcmp(keys[number].home, home) == 0;
    return count;
}

/* Messages of keys that live there, stored so far. */
static unsigned
count_stored(const char *home)
{
    unsigned count = 0;
    for (unsigned number = 0; number < KEYS; number++)
        if (strcmp(keys[number].home, home) == 0) count += atomic_load(&keys[number].stored);
    return count;
}

Test(client_order, no_key_moves, .timeout = 120)
{
    start(NULL);
    for (unsigned round = 0; round < 10; round++)
        for (unsigned number = 0; number < KEYS; number++)
            send_key(number);
    flush();
    cr_assert_gt(count_keys("a"), KEYS / 8);
    cr_assert_gt(count_keys("b"), KEYS / 8);
    cr_assert_eq(count_keys("a") + count_keys("b"), KEYS);

    /* A third one joins; that it gets messages shows that the producer knows. */
    fake_list(a, c, true);
    while (fake_message_count(c) == 0) {
        send_none(1);
        flush();
    }
    for (unsigned round = 0; round < 10; round++)
        for (unsigned number = 0; number < KEYS; number++)
            send_key(number);
    flush();
    for (unsigned number = 0; number < KEYS; number++)
        cr_assert_eq(keys[number].stored, 20);
    stop();
}

Test(client_order, without_a_key_they_take_turns, .timeout = 120)
{
    start(NULL);
    for (unsigned index = 0; index < 100; index++) {
        send_none(1);
        flush();
    }
    cr_assert_eq(none.stored, 100);
    cr_assert_eq(fake_message_count(a), 50);
    cr_assert_eq(fake_message_count(b), 50);
    stop();
}

/* Messages with and without a key in turns don't make batches of one. */
Test(client_order, both_kinds_in_turns, .timeout = 120)
{
    start(NULL);
    send_key(0);
    send_none(1);
    flush();
    fake_hold(a);
    fake_hold(b);
    for (unsigned index = 0; index < 1000; index++) {
        send_key(0);
        send_none(1);
    }
    fake_release(a);
    fake_release(b);
    flush();
    cr_assert_eq(keys[0].stored, 1001);
    cr_assert_eq(none.stored, 1001);
    cr_assert_lt(fake_batch_count(a) + fake_batch_count(b), 100);
    stop();
}

enum {
    IN_A_ROW = 3000
};

/* Where each message of one key was stored. */
static struct {
    uint64_t sequences[IN_A_ROW];
    unsigned count;
} row;

static void
on_sent_in_a_row(void *context, const struct qmq_sent *sent)
{
    cr_assert_eq(sent->code, QMQ_OK);
    *(uint64_t *)context = sent->sequence;
}

static void
send_in_a_row(unsigned number)
{
    char text[16];
    struct qmq_outgoing message = {
        .body = { "x", 1 },
        .order_key = { text, (size_t)snprintf(text, sizeof(text), "key-%u", number) },
    };
    uint64_t *sequence = &row.sequences[row.count++];
    cr_assert_eq(qmq_send(producer, FAKE_SUBJECT, &message, on_sent_in_a_row, sequence), QMQ_OK);
}

/* With several groups keys have batches of their own, with one they share: no message of a key goes into a batch
 * in front of an earlier one when that changes. */
Test(client_order, groups_come_and_go, .timeout = 120)
{
    start(NULL);
    for (unsigned number = 0; number < KEYS; number++)
        send_key(number);
    flush();
    unsigned number = 0;
    while (strcmp(keys[number].home, "b") != 0)
        number++;
    fake_hold(b);
    for (unsigned round = 0; row.count < IN_A_ROW; round++) {
        if (round % 50 == 0) fake_set_listed(a, round / 50 % 2 == 1);
        send_none(1);
        send_in_a_row(number);
        usleep(500);
    }
    fake_set_listed(a, true);
    fake_release(b);
    flush();
    for (unsigned i = 1; i < IN_A_ROW; i++)
        cr_assert_gt(row.sequences[i], row.sequences[i - 1], "message %u of its key", i);
    stop();
}

/* A key whose home is away waits for it; all others go on, and it has its order when it is back. */
Test(client_order, a_key_waits_for_its_home, .timeout = 120)
{
    const struct qmq_producer_options options = { .deadline_ms = FLUSH_MS, .unknown_ms = 100 };
    start(&options);
    for (unsigned number = 0; number < KEYS; number++)
        send_key(number);
    flush();
    unsigned of_a = count_keys("a");
    unsigned of_b = count_keys("b");

    fake_lose_answer(b, 1000 * 1000);
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned number = 0; number < KEYS; number++)
            send_key(number);
        send_none(10);
    }
    while (count_stored("a") < 11 * of_a || atomic_load(&none.stored) < 100)
        usleep(1000);
    cr_assert_lt(count_stored("b"), 11 * of_b);
    fake_end_death(b);
    flush();
    cr_assert_eq(count_stored("a"), 11 * of_a);
    cr_assert_eq(count_stored("b"), 11 * of_b);
    for (unsigned number = 0; number < KEYS; number++)
        cr_assert_eq(keys[number].failed, 0);
    stop();
}

/* A home that meta does not list, and never has. */
Test(client_order, a_key_without_a_home_ends_at_its_deadline, .timeout = 120)
{
    const struct qmq_producer_options options = { .deadline_ms = 1000 };
    start(&options);
    fake_set_homes(a, (const char *const[]){ "nowhere" }, 1);
    struct qmq_outgoing message = { .body = { "x", 1 }, .order_key = { "k", 1 } };
    cr_assert_eq(qmq_send_wait(producer, FAKE_SUBJECT, &message, NULL), QMQ_UNAVAILABLE);
    cr_assert(strstr(qmq_last_error().message, "nowhere"), "%s", qmq_last_error().message);
    send_none(10);
    flush();
    cr_assert_eq(none.stored, 10);
    stop();
}

/* The first message with a key waits for the route; when there is none it says so. */
Test(client_order, a_key_needs_a_route, .timeout = 120)
{
    const struct qmq_producer_options options = { .block_ms = 300 };
    start(&options);
    fake_refuse(a, QPROTO_META_ROUTE, Q_BUSY, 1000000);
    struct qmq_outgoing message = { .body = { "x", 1 }, .order_key = { "k", 1 } };
    cr_assert_eq(qmq_send(producer, "another", &message, NULL, NULL), QMQ_BUSY);
    fake_refuse(a, QPROTO_META_ROUTE, Q_OK, 0);
    cr_assert_eq(qmq_send_wait(producer, "another", &message, NULL), QMQ_OK);
    stop();
}

/* A broker group that answers, but takes nothing, is left out. */
Test(client_order, what_fails_is_left_out, .timeout = 120)
{
    const struct qmq_producer_options options = { .deadline_ms = FLUSH_MS };
    start(&options);
    fake_refuse(b, QPROTO_PUBLISH, Q_STORAGE_FULL, 1000000);
    for (unsigned index = 0; index < 50; index++) {
        send_none(1);
        flush();
    }
    cr_assert_eq(none.stored, 50);
    cr_assert_eq(fake_message_count(a), 50);

    /* And is tried again. */
    fake_refuse(b, QPROTO_PUBLISH, Q_OK, 0);
    while (fake_message_count(b) == 0) {
        send_none(1);
        flush();
    }
    cr_assert_eq(none.failed, 0);
    stop();
}

/* Meta is away: what is known of the route is good enough, also when a connection breaks. */
Test(client_order, the_last_route_is_kept, .timeout = 120)
{
    const struct qmq_producer_options options = { .deadline_ms = FLUSH_MS };
    start(&options);
    fake_set_listed(a, false);
    fake_set_homes(a, (const char *const[]){ "b" }, 1);
    send_none(10);
    send_key(0);
    flush();
    uint64_t before = fake_message_count(b);
    fake_kill(a);
    for (unsigned round = 0; round < 3; round++) {
        fake_kill(b);
        fake_start(b);
        send_none(10);
        send_key(0);
        flush();
    }
    cr_assert_eq(fake_message_count(b), before + 33);
    cr_assert_eq(none.failed + keys[0].failed, 0);
    fake_start(a);
    stop();
}
