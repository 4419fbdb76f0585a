/*
 * 06-delayed-cancel: an order that is not paid in time is cancelled.
 *
 *     ./06-delayed-cancel [META]
 *
 * With each order goes a message to the future. Who pays cancels it; else it comes, and ends the order.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qmq/qmq.h>

enum {
    TIME_TO_PAY_MS = 1000, /* half an hour, in a real one */
    WAIT_MS = 60 * 1000
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)fprintf(stderr, "%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

static uint64_t
now_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* The name by which it can be cancelled: keep it with the order. */
static struct qmq_delay_name
order(struct qmq_producer *producer, const char *number)
{
    struct qmq_outgoing message = {
        .body = { number, strlen(number) },
        .due_ms = now_ms() + TIME_TO_PAY_MS,
    };
    struct qmq_sent sent;
    expect(qmq_send_wait(producer, "unpaid-orders", &message, &sent), "order");
    return (struct qmq_delay_name){
        .delay_group = sent.broker_group,
        .due_ms = message.due_ms,
        .sequence = sent.sequence,
    };
}

/* QMQ_NOT_FOUND or QMQ_BEING_DELIVERED: too late, the order is being cancelled. */
static void
pay(struct qmq_client *client, const char *number, const struct qmq_delay_name *name)
{
    expect(qmq_delay_cancel(client, name), "pay");
    (void)printf("order %s is paid\n", number);
}

int
main(int argc, char **argv)
{
    struct qmq_client_options options = { .meta = argc > 1 ? argv[1] : NULL };
    struct qmq_client *client;
    struct qmq_producer *producer;
    expect(qmq_connect(&options, &client), "connect");
    expect(qmq_producer_new(client, NULL, &producer), "producer");

    struct qmq_delay_name seven = order(producer, "7");
    (void)order(producer, "8");
    pay(client, "7", &seven);

    struct qmq_consumer_options from = { .subject = "unpaid-orders", .group = "shop" };
    struct qmq_consumer *consumer;
    struct qmq_batch *batch;
    expect(qmq_consumer_new(client, &from, &consumer), "consumer");
    expect(qmq_pull(consumer, 1, WAIT_MS, &batch), "wait");
    const struct qmq_message *message = qmq_batch_message(batch, 0);
    (void)printf(
        "order %.*s was not paid in time\n", (int)message->body.size,
        (const char *)message->body.data);
    expect(qmq_ack(consumer, batch, 0, 1), "ack");

    qmq_batch_free(batch);
    qmq_consumer_free(consumer);
    qmq_producer_free(producer);
    qmq_client_free(client);
    return 0;
}
