/*
 * A producer against a node that misbehaves: nothing lost, nothing out of order, every message has
 * exactly one outcome.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "fake_node.h"

enum {
    FLUSH_MS = 20000
};

/* What the callbacks told. */
struct outcomes {
    atomic_uint count;
    atomic_uint failed;
    atomic_uint maybe_duplicate;
    atomic_uint duplicate;
    uint64_t next_number; /* messages are numbered in `context`, callbacks come in order */
    uint64_t last_sequence;
    int code;
    char name[32];
};

static struct outcomes outcomes;
/* Between two broker groups there is no order. */
static bool in_turns;

static void
on_sent(void *context, const struct qmq_sent *sent)
{
    cr_assert(in_turns || (uintptr_t)context == outcomes.next_number);
    outcomes.next_number++;
    if (sent->code == QMQ_OK) {
        /* A second copy may lie behind what was sent after the first one. */
        if (!sent->maybe_duplicate && !in_turns) {
            cr_assert(outcomes.last_sequence == 0 || sent->sequence > outcomes.last_sequence);
            outcomes.last_sequence = sent->sequence;
        }
    } else {
        outcomes.code = sent->code;
        (void)snprintf(outcomes.name, sizeof(outcomes.name), "%s", qmq_last_error().name);
        atomic_fetch_add(&outcomes.failed, 1);
    }
    if (sent->maybe_duplicate) atomic_fetch_add(&outcomes.maybe_duplicate, 1);
    if (sent->duplicate) atomic_fetch_add(&outcomes.duplicate, 1);
    atomic_fetch_add(&outcomes.count, 1);
}

static struct qmq_client *
connect_to(struct fake_node *fake)
{
    struct qmq_client_options options = { .meta = fake_url(fake), .timeout_ms = 5000 };
    struct qmq_client *client;
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
    return client;
}

static int
send_number(struct qmq_producer *producer, unsigned number)
{
    char body[32];
    struct qmq_outgoing message = {
        .body = { body, (size_t)snprintf(body, sizeof(body), "message %u", number) },
    };
    return qmq_send(producer, FAKE_SUBJECT, &message, on_sent, (void *)(uintptr_t)number);
}

static void
send_numbers(struct qmq_producer *producer, unsigned first, unsigned count)
{
    for (unsigned number = first; number < first + count; number++)
        cr_assert_eq(send_number(producer, number), QMQ_OK, "%s", qmq_last_error().message);
}

/* The numbers stored at these sequences never go down by more than a repetition explains. */
static void
check_stored(struct fake_node *fake, unsigned count, bool may_repeat)
{
    uint64_t stored = fake_message_count(fake);
    unsigned next = 0;
    for (uint64_t sequence = 0; sequence < stored; sequence++) {
        char body[32] = "";
        unsigned number = 0;
        fake_body(fake, sequence, body, sizeof(body));
        cr_assert_eq(sscanf(body, "message %u", &number), 1);
        cr_assert(
            number == next || (may_repeat && number < next), "%u at %llu", number,
            (unsigned long long)sequence);
        next = number + 1;
    }
    cr_assert_eq(next, count);
    if (!may_repeat) cr_assert_eq(stored, count);
}

Test(client_producer, sends_in_order_and_in_batches, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    send_numbers(producer, 0, 5000);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.count, 5000);
    cr_assert_eq(outcomes.failed, 0);
    cr_assert_eq(outcomes.last_sequence, 4999);
    check_stored(fake, 5000, false);
    cr_assert_lt(fake_batch_count(fake), 2500);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, waits_for_one, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    for (unsigned index = 0; index < 10; index++) {
        struct qmq_outgoing message = { .body = { "hello", 5 } };
        struct qmq_sent sent;
        cr_assert_eq(qmq_send_wait(producer, FAKE_SUBJECT, &message, &sent), QMQ_OK);
        cr_assert_eq(sent.sequence, index);
        cr_assert_str_eq(sent.broker_group, "a");
        cr_assert_not(sent.maybe_duplicate);
        char id[QMQ_ID_TEXT_SIZE];
        cr_assert_neq(qmq_id_text(&sent.id, id)[0], '\0');
    }
    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, tries_again_in_order_when_refused, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    fake_refuse(fake, QPROTO_PUBLISH, Q_BUSY, 5);
    send_numbers(producer, 0, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed, 0);
    cr_assert_eq(outcomes.maybe_duplicate, 0);
    check_stored(fake, 1, false);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, survives_a_broker_that_dies_after_storing, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    send_numbers(producer, 0, 1000);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    fake_lose_answer(fake, 50);
    for (unsigned number = 1000; number < 3000; number++) {
        send_numbers(producer, number, 1);
        if (number == 2000) fake_lose_answer(fake, 0);
        if (number % 10 == 0) usleep(200);
    }
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.count, 3000);
    cr_assert_eq(outcomes.failed, 0);
    cr_assert_eq(outcomes.maybe_duplicate, 0);
    cr_assert_gt(outcomes.duplicate, 0, "what was stored before it died is told so");
    check_stored(fake, 3000, false);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, gives_up_at_the_deadline, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    struct qmq_producer_options options = { .deadline_ms = 300 };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    fake_refuse(fake, QPROTO_PUBLISH, Q_BUSY, 1000000);
    send_numbers(producer, 0, 100);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed, 100);
    cr_assert_eq(outcomes.code, QMQ_BUSY);
    cr_assert_str_eq(outcomes.name, "BUSY");

    /* And goes on afterwards. */
    fake_refuse(fake, QPROTO_PUBLISH, Q_OK, 0);
    send_numbers(producer, 100, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed, 100);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, what_can_not_pass_is_told_at_once, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    fake_refuse(fake, QPROTO_PUBLISH, Q_NO_SUCH_MODE, 1);
    struct qmq_outgoing message = { .body = { "x", 1 } };
    cr_assert_eq(qmq_send_wait(producer, FAKE_SUBJECT, &message, NULL), Q_NO_SUCH_MODE);
    cr_assert_str_eq(qmq_last_error().name, "NO_SUCH_MODE");
    cr_assert_eq(fake_publish_count(fake), 0);

    cr_assert_eq(qmq_send_wait(producer, "no spaces", &message, NULL), QMQ_INVALID);
    struct qmq_outgoing late = { .body = { "x", 1 }, .order_key = { "k", 1 }, .due_ms = 1 };
    cr_assert_eq(qmq_send(producer, FAKE_SUBJECT, &late, NULL, NULL), QMQ_INVALID);
    cr_assert_str_eq(qmq_last_error().message, "a delayed message can't have an order key");
    struct qmq_bytes tags[11] = { { "t", 1 } };
    struct qmq_outgoing many = { .body = { "x", 1 }, .tags = tags, .tag_count = 11 };
    cr_assert_eq(qmq_send_wait(producer, FAKE_SUBJECT, &many, NULL), QMQ_TOO_BIG);
    static char big[5 * 1024 * 1024];
    struct qmq_outgoing huge = { .body = { big, sizeof(big) } };
    cr_assert_eq(qmq_send_wait(producer, FAKE_SUBJECT, &huge, NULL), QMQ_TOO_BIG);
    struct qmq_outgoing largest = { .body = { big, 4 * 1024 * 1024 - 4 } };
    cr_assert_eq(
        qmq_send_wait(producer, FAKE_SUBJECT, &largest, NULL), QMQ_OK, "%s",
        qmq_last_error().message);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

/* A request is refused for one of its batches: only that one fails. */
static void
refuse_one(enum q_err err)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    const struct qmq_producer_options options = { .batch_messages_max = 1 };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    /* All of them wait for a route, so they go in one request; then the first one by itself. */
    fake_set_listed(fake, false);
    fake_refuse(fake, QPROTO_PUBLISH, err, 2);
    send_numbers(producer, 0, 5);
    fake_set_listed(fake, true);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.count, 5);
    cr_assert_eq(outcomes.failed, 1);
    cr_assert_eq(outcomes.code, (int)err);
    cr_assert_eq(fake_message_count(fake), 4);
    char body[32];
    fake_body(fake, 0, body, sizeof(body));
    cr_assert_str_eq(body, "message 1");

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, what_is_due_too_far_fails_alone, .timeout = 60)
{
    refuse_one(Q_DUE_TOO_FAR);
}

Test(client_producer, what_a_broker_has_no_room_for_fails_alone, .timeout = 60)
{
    refuse_one(Q_TOO_BIG);
}

/* And does not take others with it the next time. */
Test(client_producer, a_refused_subject_goes_by_itself, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);
    struct qmq_outgoing message = { .body = { "x", 1 } };

    const char *const names[] = { "s0", "s1", "s2", "s3", "refused", "s4", "s5" };
    for (unsigned index = 0; index < 7; index++)
        cr_assert_eq(qmq_send_wait(producer, names[index], &message, NULL), QMQ_OK);
    fake_refuse(fake, QPROTO_PUBLISH, Q_TOO_BIG, 1);
    cr_assert_eq(qmq_send_wait(producer, "refused", &message, NULL), QMQ_TOO_BIG);

    /* Two are on the air, one after the other; behind them the others come to lie together. */
    uint64_t before = fake_publish_count(fake);
    fake_hold(fake);
    for (unsigned index = 0; index < 2; index++) {
        cr_assert_eq(qmq_send(producer, names[index], &message, NULL, NULL), QMQ_OK);
        while (fake_publish_count(fake) < before + index + 1)
            usleep(1000);
    }
    for (unsigned index = 2; index < 7; index++)
        cr_assert_eq(qmq_send(producer, names[index], &message, NULL, NULL), QMQ_OK);
    fake_release(fake);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_geq(fake_publish_count(fake), before + 2 + 3, "it had a request of its own");

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

static void
wait_for_publishes(struct fake_node *fake, uint64_t count)
{
    while (fake_publish_count(fake) < count)
        usleep(1000);
}

/* The batches of a request that is refused for one of them go one by one, and before what was sent after it and
 * is on its way already. */
Test(client_producer, a_parted_request_is_not_overtaken, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    struct qmq_producer_options options = { .batch_messages_max = 1 };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    fake_hold(fake);
    send_numbers(producer, 0, 1);
    wait_for_publishes(fake, 1);
    send_numbers(producer, 1, 1);
    wait_for_publishes(fake, 2);
    send_numbers(producer, 2, 8);
    fake_let_through(fake);
    wait_for_publishes(fake, 3);
    send_numbers(producer, 10, 1);
    wait_for_publishes(fake, 4);
    fake_refuse_many(fake, Q_TOO_BIG);
    fake_release(fake);

    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.count, 11);
    cr_assert_eq(outcomes.failed, 0);
    check_stored(fake, 11, false);
    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, memory_is_bounded, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    struct qmq_producer_options options = { .memory_bytes_max = 40000, .block_ms = 50 };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    fake_hold(fake);
    unsigned number = 0;
    int code;
    while ((code = send_number(producer, number)) == QMQ_OK)
        number++;
    cr_assert_eq(code, QMQ_BUSY);
    cr_assert(number > 10 && number < 400, "%u", number);

    fake_release(fake);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    send_numbers(producer, number, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    check_stored(fake, number + 1, false);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, freeing_it_ends_every_message_once, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    fake_hold(fake);
    send_numbers(producer, 0, 2000);
    qmq_producer_free(producer);
    cr_assert_eq(outcomes.count, 2000);
    cr_assert_eq(outcomes.failed, 2000);
    cr_assert_eq(outcomes.code, QMQ_STOPPING);

    qmq_client_free(client);
    fake_free(fake);
}

/* Only the other one takes messages. */
static void
list_alone(struct fake_node *meta, const struct fake_node *other)
{
    fake_set_listed(meta, false);
    fake_list(meta, other, true);
}

Test(client_producer, moves_to_another_broker_group_when_its_own_is_gone, .timeout = 60)
{
    struct fake_node *meta = fake_new("a");
    struct fake_node *other = fake_new("b");
    struct qmq_client *client = connect_to(meta);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    list_alone(meta, other);
    send_numbers(producer, 0, 100);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(fake_message_count(other), 100);

    fake_set_listed(meta, true);
    fake_kill(other);
    in_turns = true;
    send_numbers(producer, 100, 100);
    /* Meta still has it in its lists: the producer sees by itself that it is away. */
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.count, 200);
    cr_assert_eq(outcomes.failed, 0);
    cr_assert_eq(fake_message_count(meta), 100);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(other);
    fake_free(meta);
}

/* The answer of what was stored at a group that is gone for good does not come any more. */
static void
lose_a_group(enum qmq_duplicates duplicates)
{
    struct fake_node *meta = fake_new("a");
    struct fake_node *other = fake_new("b");
    struct qmq_client *client = connect_to(meta);
    struct qmq_producer *producer;
    struct qmq_producer_options options = {
        .duplicates = duplicates,
        .unknown_ms = 500,
        .deadline_ms = duplicates == QMQ_DUPLICATES_NEVER ? 3000 : 0,
    };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    list_alone(meta, other);
    send_numbers(producer, 0, 10);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    in_turns = true;
    fake_set_listed(meta, true);
    fake_lose_answer(other, 1000 * 1000);
    send_numbers(producer, 10, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(fake_message_count(other), 11);
    cr_assert_eq(outcomes.count, 11);
    if (duplicates == QMQ_DUPLICATES_MAYBE) {
        cr_assert_eq(outcomes.failed, 0);
        cr_assert_eq(outcomes.maybe_duplicate, 1);
        cr_assert_eq(fake_message_count(meta), 1);
    } else {
        cr_assert_eq(outcomes.failed, 1);
        cr_assert_eq(outcomes.code, QMQ_OUTCOME_UNKNOWN);
        cr_assert_eq(outcomes.maybe_duplicate, 0);
        cr_assert_eq(fake_message_count(meta), 0);
    }
    /* The next ones go to the other one, at once. */
    send_numbers(producer, 11, 10);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(fake_message_count(meta), duplicates == QMQ_DUPLICATES_MAYBE ? 11 : 10);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(other);
    fake_free(meta);
}

/* What may be stored where it came from is never called failed, wherever it fails in the end. */
Test(client_producer, fails_elsewhere_with_what_may_be_stored, .timeout = 60)
{
    struct fake_node *meta = fake_new("a");
    struct fake_node *other = fake_new("b");
    struct qmq_client *client = connect_to(meta);
    struct qmq_producer *producer;
    struct qmq_producer_options options = { .unknown_ms = 200, .deadline_ms = 2000 };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    list_alone(meta, other);
    send_numbers(producer, 0, 10);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    in_turns = true;
    fake_set_listed(meta, true);
    fake_refuse(meta, QPROTO_PUBLISH, Q_STORAGE_FULL, 1000 * 1000);
    fake_lose_answer(other, 1000 * 1000);
    send_numbers(producer, 10, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(fake_message_count(other), 11);
    cr_assert_eq(outcomes.failed, 1);
    cr_assert_eq(outcomes.code, QMQ_OUTCOME_UNKNOWN);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(other);
    fake_free(meta);
}

Test(client_producer, goes_elsewhere_with_what_may_be_stored, .timeout = 60)
{
    lose_a_group(QMQ_DUPLICATES_MAYBE);
}

Test(client_producer, does_not_go_elsewhere_when_duplicates_are_not_wanted, .timeout = 60)
{
    lose_a_group(QMQ_DUPLICATES_NEVER);
}

/* A broker that has forgotten the producer can't tell whether the request is stored. */
static void
lose_memory(enum qmq_duplicates duplicates)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    struct qmq_producer_options options = { .duplicates = duplicates };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    send_numbers(producer, 0, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    /* One that was not sent before is taken by whoever does not know its producer. */
    fake_forget_producers(fake);
    send_numbers(producer, 1, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed + outcomes.maybe_duplicate, 0);

    fake_lose_answer(fake, 300);
    send_numbers(producer, 2, 1);
    while (fake_message_count(fake) < 3)
        usleep(1000);
    fake_forget_producers(fake);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    bool never = duplicates == QMQ_DUPLICATES_NEVER;
    cr_assert_eq(outcomes.failed, never ? 1 : 0);
    cr_assert_eq(outcomes.maybe_duplicate, never ? 0 : 1);
    cr_assert_eq(fake_message_count(fake), never ? 3 : 4);
    if (never) cr_assert_eq(outcomes.code, QMQ_OUTCOME_UNKNOWN);
    send_numbers(producer, 3, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed, never ? 1 : 0);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, is_forgotten, .timeout = 60)
{
    lose_memory(QMQ_DUPLICATES_MAYBE);
}

Test(client_producer, is_forgotten_and_wants_no_duplicates, .timeout = 60)
{
    lose_memory(QMQ_DUPLICATES_NEVER);
}

/* A broker that knows the request, but not where it lies, says so for ever: it goes as another one. */
Test(client_producer, does_not_ask_for_ever_for_what_is_mislaid, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    cr_assert_eq(qmq_producer_new(client, NULL, &producer), QMQ_OK);

    send_numbers(producer, 0, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    fake_mislay(fake);
    fake_lose_answer(fake, 50);
    send_numbers(producer, 1, 1);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed, 0);
    cr_assert_eq(outcomes.maybe_duplicate, 1);
    cr_assert_eq(fake_message_count(fake), 3);
    send_numbers(producer, 2, 10);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed, 0);
    cr_assert_eq(outcomes.maybe_duplicate, 1);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

/* A message that joins others that wait has its own time. */
Test(client_producer, each_message_has_its_own_deadline, .timeout = 60)
{
    enum {
        DEADLINE_MS = 4000
    };
    struct fake_node *fake = fake_new("a");
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    struct qmq_producer_options options = { .deadline_ms = DEADLINE_MS };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    fake_set_listed(fake, false);
    send_numbers(producer, 0, 5);
    usleep(DEADLINE_MS / 2 * 1000);
    send_numbers(producer, 5, 5);
    while (atomic_load(&outcomes.count) < 5)
        usleep(1000);
    cr_assert_eq(outcomes.count, 5);
    cr_assert_eq(outcomes.failed, 5);
    fake_set_listed(fake, true);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.count, 10);
    cr_assert_eq(outcomes.failed, 5);
    cr_assert_eq(fake_message_count(fake), 5);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, waits_for_a_route, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    fake_set_listed(fake, false);
    struct qmq_client *client = connect_to(fake);
    struct qmq_producer *producer;
    struct qmq_producer_options options = { .deadline_ms = 1500 };
    cr_assert_eq(qmq_producer_new(client, &options, &producer), QMQ_OK);

    send_numbers(producer, 0, 10);
    usleep(200000);
    cr_assert_eq(outcomes.count, 0);
    fake_set_listed(fake, true);
    cr_assert_eq(qmq_flush(producer, FLUSH_MS), QMQ_OK);
    cr_assert_eq(outcomes.failed, 0);

    fake_set_listed(fake, false);
    struct qmq_outgoing message = { .body = { "x", 1 } };
    cr_assert_eq(qmq_send_wait(producer, "another.subject", &message, NULL), QMQ_NO_ROUTE);

    qmq_producer_free(producer);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_producer, no_server_is_told_in_time, .timeout = 60)
{
    struct qmq_client_options options = { .meta = "inproc://nobody", .timeout_ms = 200 };
    struct qmq_client *client;
    cr_assert_eq(qmq_connect(&options, &client), QMQ_UNAVAILABLE);
    cr_assert_not_null(strstr(qmq_last_error().message, "inproc://nobody"));
    cr_assert(qmq_last_error().retryable);
}
