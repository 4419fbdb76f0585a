/*
 * 10-dead-letters: give back what failed for good, once its cause is gone.
 *
 *     ./10-dead-letters [META]
 *
 * `qmq dlq resend` does this from a terminal. A program of one's own can look at each letter first:
 * this one gives back what the bank did not take, and leaves the rest.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qmq/qmq.h>

enum {
    WAIT_MS = 60 * 1000
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)fprintf(stderr, "%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

static atomic_bool bank_is_up;

static int
charge(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    (void)context;
    if (atomic_load(&bank_is_up)) {
        (void)printf("charged %.*s\n", (int)message->body.size, (const char *)message->body.data);
        return 0;
    }
    struct qmq_nack_options nack = { .error = "the bank is down" };
    (void)qmq_delivery_fail(delivery, &nack);
    return 1;
}

/* The original is still stored: it is given to its group again, as attempt 1. */
static int
give_back(void *context, const struct qmq_message *letter, struct qmq_delivery *delivery)
{
    struct qmq_client *client = context;
    struct qmq_bytes error;
    struct qmq_bytes sequence;
    if (!qmq_message_property(letter, "dead-error", &error) ||
        !qmq_message_property(letter, "dead-sequence", &sequence))
        return 0;
    if (error.size != 16 || memcmp(error.data, "the bank is down", 16) != 0) return 0;

    char number[24] = "";
    memcpy(number, sequence.data, sequence.size < 23 ? sequence.size : 23);
    struct qmq_control again = {
        .kind = QMQ_CONTROL_RESEND,
        .broker_group = qmq_source_name(client, letter->source),
        .first = strtoull(number, NULL, 10),
    };
    again.last = again.first;
    int code = qmq_group_control(client, "charges", "billing", &again, NULL, NULL);
    if (code == QMQ_OK) return 0;
    /* QMQ_GONE: retention has dropped it; what is left of it is this letter. */
    struct qmq_nack_options nack = { .error = qmq_last_error().message };
    (void)qmq_delivery_fail(delivery, &nack);
    return code;
}

/* Handle until so many were handled or have failed. */
static void
work(
    struct qmq_client *client,
    const char *subject,
    const char *group,
    qmq_handler_fn *handler,
    uint64_t count)
{
    struct qmq_consumer_options from = { .subject = subject, .group = group };
    struct qmq_push_options options = { .consumer = &from, .handler = handler, .context = client };
    struct qmq_push *push;
    struct qmq_push_info info = { .handled = 0 };
    expect(qmq_push_new(client, &options, &push), subject);
    for (; info.handled + info.failed < count; usleep(10000))
        qmq_push_info(push, &info);
    expect(qmq_push_stop(push, WAIT_MS), "stop");
    qmq_push_free(push);
    (void)printf(
        "%s: %llu handled, %llu failed\n", group, (unsigned long long)info.handled,
        (unsigned long long)info.failed);
}

int
main(int argc, char **argv)
{
    struct qmq_client_options options = { .meta = argc > 1 ? argv[1] : NULL };
    struct qmq_client *client;
    struct qmq_producer *producer;
    struct qmq_consumer *consumer;
    expect(qmq_connect(&options, &client), "connect");
    expect(qmq_producer_new(client, NULL, &producer), "producer");

    /* One attempt, so that this ends; 16 are usual. */
    struct qmq_consumer_options from = { .subject = "charges", .group = "billing" };
    expect(qmq_consumer_new(client, &from, &consumer), "consumer");
    qmq_consumer_free(consumer);
    struct qmq_control once = { .kind = QMQ_CONTROL_SETTINGS, .settings = { .attempts_max = 1 } };
    expect(qmq_group_control(client, "charges", "billing", &once, NULL, NULL), "settings");

    struct qmq_outgoing message = { .body = { "order 7", 7 } };
    expect(qmq_send_wait(producer, "charges", &message, NULL), "send");
    work(client, "charges", "billing", charge, 1);
    atomic_store(&bank_is_up, true);
    work(client, "%DEAD_RETRY%charges%billing", "replay", give_back, 1);
    work(client, "charges", "billing", charge, 1);

    qmq_producer_free(producer);
    qmq_client_free(client);
    return 0;
}
