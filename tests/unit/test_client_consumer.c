/*
 * A consumer against a node that misbehaves: all messages, in order, whatever happens to session
 * and connection.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <criterion/criterion.h>

#include "fake_node.h"

enum {
    STORED = 1000,
    PER_BATCH = 25
};

static struct qmq_client *client;

static void
store_numbers(struct fake_node *fake, bool compress)
{
    static char texts[STORED][160];
    for (unsigned first = 0; first < STORED; first += PER_BATCH) {
        const char *bodies[PER_BATCH];
        for (unsigned index = 0; index < PER_BATCH; index++) {
            bodies[index] = texts[first + index];
            (void)snprintf(texts[first + index], sizeof(texts[0]), "%-140u.", first + index);
        }
        fake_store(fake, bodies, PER_BATCH, compress);
    }
}

static struct qmq_consumer *
consumer_on(struct fake_node *fake, bool no_prefetch)
{
    struct qmq_client_options options = { .meta = fake_url(fake), .timeout_ms = 5000 };
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
    struct qmq_consumer_options wanted = {
        .subject = FAKE_SUBJECT,
        .group = "billing",
        .no_prefetch = no_prefetch,
    };
    struct qmq_consumer *consumer;
    cr_assert_eq(
        qmq_consumer_new(client, &wanted, &consumer), QMQ_OK, "%s", qmq_last_error().message);
    return consumer;
}

static void
end(struct qmq_consumer *consumer, struct fake_node *fake)
{
    qmq_consumer_free(consumer);
    qmq_client_free(client);
    fake_free(fake);
}

/* Pull and acknowledge until nothing comes; checks the order. Returns how many came. */
static unsigned
drain(struct qmq_consumer *consumer, unsigned next, unsigned messages_max)
{
    struct qmq_batch *batch;
    int code;
    while ((code = qmq_pull(consumer, messages_max, 50, &batch)) == QMQ_OK) {
        size_t count = qmq_batch_count(batch);
        cr_assert_leq(count, messages_max);
        for (size_t index = 0; index < count; index++) {
            const struct qmq_message *message = qmq_batch_message(batch, index);
            char body[160] = "";
            memcpy(body, message->body.data, message->body.size);
            cr_assert_eq(message->sequence, next);
            cr_assert_eq((unsigned)strtoul(body, NULL, 10), next);
            next++;
        }
        cr_assert_eq(qmq_ack(consumer, batch, 0, count), QMQ_OK, "%s", qmq_last_error().message);
        qmq_batch_free(batch);
    }
    cr_assert_eq(code, QMQ_AGAIN, "%s", qmq_last_error().message);
    return next;
}

Test(client_consumer, drains_in_order, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    store_numbers(fake, false);
    struct qmq_consumer *consumer = consumer_on(fake, false);
    cr_assert_eq(drain(consumer, 0, 70), STORED);
    cr_assert_eq(fake_acked_count(fake), STORED);

    struct qmq_consumer_info info;
    qmq_consumer_info(consumer, &info);
    cr_assert_eq(info.unacked, 0);
    cr_assert_eq(info.waiting, 0);
    cr_assert_eq(info.sources, 1);
    cr_assert_eq(info.sources_away, 0);
    qmq_consumer_free(consumer);
    cr_assert(fake_has_left(fake));
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_consumer, drains_compressed_batches, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    store_numbers(fake, true);
    struct qmq_consumer *consumer = consumer_on(fake, true);
    cr_assert_eq(drain(consumer, 0, 33), STORED);
    end(consumer, fake);
}

Test(client_consumer, shows_what_a_message_has, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    store_numbers(fake, false);
    struct qmq_consumer *consumer = consumer_on(fake, true);
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 2, 1000, &batch), QMQ_OK);
    cr_assert_eq(qmq_batch_count(batch), 2);
    const struct qmq_message *message = qmq_batch_message(batch, 1);
    struct qmq_bytes value;
    cr_assert(qmq_message_tag(message, 0, &value));
    cr_assert_eq(memcmp(value.data, "t1", 2), 0);
    cr_assert_not(qmq_message_tag(message, 1, &value));
    cr_assert(qmq_message_property(message, "colour", &value));
    cr_assert_eq(memcmp(value.data, "red", 3), 0);
    cr_assert_not(qmq_message_property(message, "size", &value));
    cr_assert_eq(message->attempt, 1);
    cr_assert_eq(message->id.time_ms, 5001);
    cr_assert_eq(message->stored_ms, 1000);
    cr_assert_null(qmq_batch_message(batch, 2));
    cr_assert_eq(qmq_ack(consumer, batch, 1, 2), QMQ_INVALID);
    cr_assert_eq(qmq_ack_range(consumer, message->source, 0, 1), QMQ_OK);
    cr_assert_eq(fake_acked_count(fake), 2);
    qmq_batch_free(batch);
    end(consumer, fake);
}

Test(client_consumer, says_that_there_is_nothing, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_consumer *consumer = consumer_on(fake, false);
    struct qmq_batch *batch;
    for (unsigned index = 0; index < 20; index++)
        cr_assert_eq(qmq_pull(consumer, 10, 0, &batch), QMQ_AGAIN);
    cr_assert_eq(qmq_pull(consumer, 10, 100, &batch), QMQ_AGAIN);
    end(consumer, fake);
}

static void *
store_soon(void *context)
{
    usleep(100000);
    const char *bodies[] = { "late" };
    fake_store(context, bodies, 1, false);
    return NULL;
}

Test(client_consumer, a_pull_waits_for_messages, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_consumer *consumer = consumer_on(fake, false);
    struct qmq_batch *batch;
    pthread_t thread;
    pthread_create(&thread, NULL, store_soon, fake);
    cr_assert_eq(qmq_pull(consumer, 10, 30000, &batch), QMQ_OK);
    cr_assert_eq(memcmp(qmq_batch_message(batch, 0)->body.data, "late", 4), 0);
    qmq_batch_free(batch);
    pthread_join(thread, NULL);
    end(consumer, fake);
}

static void *
stop_soon(void *context)
{
    usleep(100000);
    qmq_consumer_stop(context);
    return NULL;
}

Test(client_consumer, a_waiting_pull_can_be_stopped, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_consumer *consumer = consumer_on(fake, false);
    struct qmq_batch *batch;
    pthread_t thread;
    pthread_create(&thread, NULL, stop_soon, consumer);
    cr_assert_eq(qmq_pull(consumer, 10, 30000, &batch), QMQ_STOPPING);
    pthread_join(thread, NULL);
    end(consumer, fake);
}

Test(client_consumer, joins_again_when_its_session_is_lost, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    store_numbers(fake, false);
    struct qmq_consumer *consumer = consumer_on(fake, true);
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 50, 1000, &batch), QMQ_OK);
    cr_assert_eq(qmq_batch_count(batch), 50);

    /* What is in the program's hands is acknowledged in the new session, and not given again. */
    fake_forget_session(fake);
    cr_assert_eq(qmq_ack(consumer, batch, 0, 50), QMQ_OK, "%s", qmq_last_error().message);
    cr_assert_eq(fake_join_count(fake), 2);
    qmq_batch_free(batch);
    fake_forget_session(fake);
    cr_assert_eq(drain(consumer, 50, 50), STORED);
    cr_assert_eq(fake_join_count(fake), 3);
    end(consumer, fake);
}

Test(client_consumer, goes_on_after_the_broker_was_away, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    store_numbers(fake, false);
    struct qmq_consumer *consumer = consumer_on(fake, false);
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 50, 1000, &batch), QMQ_OK);
    cr_assert_eq(qmq_ack(consumer, batch, 0, 50), QMQ_OK);
    qmq_batch_free(batch);

    fake_kill(fake);
    int code;
    unsigned next = 50;
    while ((code = qmq_pull(consumer, 50, 100, &batch)) == QMQ_OK) { /* what was fetched ahead */
        next += (unsigned)qmq_batch_count(batch);
        qmq_batch_free(batch);
    }
    cr_assert(code == QMQ_E_CONNECTION || code == QMQ_UNAVAILABLE, "%d", code);
    struct qmq_consumer_info info;
    qmq_consumer_info(consumer, &info);
    cr_assert_eq(info.sources_away, 1);

    fake_start(fake);
    fake_forget_session(fake);
    do {
        code = qmq_pull(consumer, 50, 1000, &batch);
    } while (code == QMQ_E_CONNECTION || code == QMQ_UNAVAILABLE);
    cr_assert_eq(code, QMQ_OK, "%s", qmq_last_error().message);
    cr_assert_eq(qmq_batch_message(batch, 0)->sequence, next);
    next += (unsigned)qmq_batch_count(batch);
    qmq_batch_free(batch);
    cr_assert_eq(drain(consumer, next, 50), STORED);
    end(consumer, fake);
}

Test(client_consumer, shows_that_it_lives, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_consumer *consumer = consumer_on(fake, false);
    fake_refuse(fake, QPROTO_KEEP_ALIVE, Q_NO_SESSION, 1);
    for (unsigned waited = 0; waited < 5000 && fake_join_count(fake) < 2; waited++)
        usleep(1000);
    cr_assert_eq(fake_join_count(fake), 2);
    end(consumer, fake);
}

Test(client_consumer, damaged_bodies_are_not_handed_out, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    store_numbers(fake, false);
    fake_damage(fake, true);
    struct qmq_consumer *consumer = consumer_on(fake, false);
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 50, 1000, &batch), QMQ_E_CORRUPT);
    end(consumer, fake);
}

Test(client_consumer, a_replaced_consumer_is_told, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_consumer *consumer = consumer_on(fake, false);
    fake_refuse(fake, QPROTO_PULL, Q_CONSUMER_REPLACED, 1);
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 50, 1000, &batch), QMQ_CONSUMER_REPLACED);
    cr_assert_eq(qmq_pull(consumer, 50, 0, &batch), QMQ_CONSUMER_REPLACED);
    end(consumer, fake);
}

/* A negative ack goes through whatever happens to the session, and is refused for good at once. */
Test(client_consumer, a_negative_ack_goes_through, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    store_numbers(fake, false);
    struct qmq_consumer *consumer = consumer_on(fake, true);
    struct qmq_batch *batch;
    cr_assert_eq(qmq_pull(consumer, 50, 1000, &batch), QMQ_OK);
    fake_forget_session(fake);
    cr_assert_eq(qmq_nack(consumer, batch, 0, 20, NULL), QMQ_OK, "%s", qmq_last_error().message);
    cr_assert_eq(fake_nacked_count(fake), 20);
    fake_refuse(fake, QPROTO_NACK, Q_BUSY, 2);
    cr_assert_eq(qmq_nack(consumer, batch, 20, 30, NULL), QMQ_OK, "%s", qmq_last_error().message);
    cr_assert_eq(fake_nacked_count(fake), 50);
    fake_refuse(fake, QPROTO_NACK, Q_DELAY_TOO_LONG, 1);
    struct qmq_nack_options long_delay = { .with_delay = true, .delay_ms = UINT64_MAX / 2 };
    cr_assert_eq(qmq_nack(consumer, batch, 0, 1, &long_delay), QMQ_DELAY_TOO_LONG);
    cr_assert_eq(qmq_nack(consumer, batch, 40, 11, NULL), QMQ_INVALID);
    qmq_batch_free(batch);
    end(consumer, fake);
}

/* A pull at most once is never cancelled and made again: what it was handed would be lost. */
Test(client_consumer, at_most_once_loses_nothing_by_itself, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct fake_node *other = fake_new("b");
    fake_list(fake, other, false);
    struct qmq_client_options options = { .meta = fake_url(fake), .timeout_ms = 5000 };
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK, "%s", qmq_last_error().message);
    struct qmq_consumer_options wanted = {
        .subject = FAKE_SUBJECT,
        .group = "billing",
        .at_most_once = true,
    };
    struct qmq_consumer *consumer;
    cr_assert_eq(qmq_consumer_new(client, &wanted, &consumer), QMQ_OK);
    /* Both have a pull that waits; one is answered, and then nobody wants to wait any more. */
    store_numbers(fake, false);
    struct qmq_batch *batch;
    unsigned count = 0;
    while (count < 2 * STORED) {
        int code = qmq_pull(consumer, 100, count % 200 ? 0 : 2000, &batch);
        if (count == STORED && fake_message_count(other) == 0) store_numbers(other, false);
        if (code == QMQ_AGAIN) continue;
        cr_assert_eq(code, QMQ_OK, "%s", qmq_last_error().message);
        count += (unsigned)qmq_batch_count(batch);
        qmq_batch_free(batch);
    }
    cr_assert_eq(qmq_pull(consumer, 100, 0, &batch), QMQ_AGAIN);
    qmq_consumer_free(consumer);
    qmq_client_free(client);
    fake_free(other);
    fake_free(fake);
}

Test(client_consumer, a_refused_join_is_told_at_once, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct qmq_client_options options = { .meta = fake_url(fake) };
    cr_assert_eq(qmq_connect(&options, &client), QMQ_OK);
    fake_refuse(fake, QPROTO_JOIN, Q_FILTER_DIFFERS, 1);
    struct qmq_consumer_options wanted = { .subject = FAKE_SUBJECT, .group = "g" };
    struct qmq_consumer *consumer;
    cr_assert_eq(qmq_consumer_new(client, &wanted, &consumer), QMQ_FILTER_DIFFERS);
    cr_assert_str_eq(qmq_last_error().name, "FILTER_DIFFERS");
    wanted.group = "";
    cr_assert_eq(qmq_consumer_new(client, &wanted, &consumer), QMQ_INVALID);
    qmq_client_free(client);
    fake_free(fake);
}

Test(client_consumer, pulls_from_all_broker_groups, .timeout = 60)
{
    struct fake_node *fake = fake_new("a");
    struct fake_node *other = fake_new("b");
    fake_list(fake, other, false);
    store_numbers(fake, false);
    store_numbers(other, false);
    struct qmq_consumer *consumer = consumer_on(fake, false);
    struct qmq_batch *batch;
    unsigned count = 0;
    while (qmq_pull(consumer, 100, 200, &batch) == QMQ_OK) {
        size_t size = qmq_batch_count(batch);
        count += (unsigned)size;
        cr_assert_eq(qmq_ack(consumer, batch, 0, size), QMQ_OK);
        qmq_batch_free(batch);
    }
    cr_assert_eq(count, 2 * STORED);
    cr_assert_eq(fake_acked_count(fake), STORED);
    cr_assert_eq(fake_acked_count(other), STORED);
    cr_assert_eq(qmq_pull(consumer, 100, 0, &batch), QMQ_AGAIN);
    qmq_consumer_free(consumer);
    qmq_client_free(client);
    fake_free(other);
    fake_free(fake);
}
