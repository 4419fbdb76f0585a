/*
 * 04-unit-test: test your own code against a real message queue that lives in the test.
 *
 *     ./04-unit-test
 *
 * What is tested is a cashier: it reads orders and publishes an invoice for each. The queue is started
 * by one call, and restarted in the middle, since that is when such code goes wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qmq/testing.h>

enum {
    WAIT_MS = 10 * 1000,
    LAST = 3
};

/* For an order "7" there is an invoice "invoice for 7". An order is done when its invoice is stored. */
static int
cashier_work(struct qmq_client *client, int orders)
{
    struct qmq_consumer_options wanted = { .subject = "orders", .group = "cashier" };
    struct qmq_consumer *consumer;
    struct qmq_producer *producer;
    int code = qmq_consumer_new(client, &wanted, &consumer);
    if (code != QMQ_OK) return code;
    code = qmq_producer_new(client, NULL, &producer);
    if (code != QMQ_OK) {
        qmq_consumer_free(consumer);
        return code;
    }
    for (int done = 0; done < orders && code == QMQ_OK; done++) {
        struct qmq_batch *batch;
        code = qmq_pull(consumer, 1, WAIT_MS, &batch);
        if (code != QMQ_OK) break;
        const struct qmq_message *order = qmq_batch_message(batch, 0);
        char text[64];
        int size = snprintf(
            text, sizeof(text), "invoice for %.*s", (int)order->body.size,
            (const char *)order->body.data);
        struct qmq_outgoing invoice = { .body = { text, (size_t)size } };
        code = qmq_send_wait(producer, "invoices", &invoice, NULL);
        if (code == QMQ_OK) code = qmq_ack(consumer, batch, 0, 1);
        qmq_batch_free(batch);
    }
    qmq_producer_free(producer);
    qmq_consumer_free(consumer);
    return code;
}

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)printf("%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

static void
order(struct qmq_client *client, int first, int last)
{
    struct qmq_producer *producer;
    expect(qmq_producer_new(client, NULL, &producer), "producer");
    for (int number = first; number <= last; number++) {
        char text[16];
        int size = snprintf(text, sizeof(text), "%d", number);
        struct qmq_outgoing message = { .body = { text, (size_t)size } };
        expect(qmq_send_wait(producer, "orders", &message, NULL), "order");
    }
    qmq_producer_free(producer);
}

static void
print_invoices(struct qmq_client *client, int count)
{
    struct qmq_consumer_options wanted = { .subject = "invoices", .group = "test" };
    struct qmq_consumer *consumer;
    expect(qmq_consumer_new(client, &wanted, &consumer), "consumer");
    while (count > 0) {
        struct qmq_batch *batch;
        expect(qmq_pull(consumer, 0, WAIT_MS, &batch), "invoices");
        for (size_t i = 0; i < qmq_batch_count(batch); i++) {
            const struct qmq_message *message = qmq_batch_message(batch, i);
            (void)printf("%.*s\n", (int)message->body.size, (const char *)message->body.data);
        }
        count -= (int)qmq_batch_count(batch);
        expect(qmq_ack(consumer, batch, 0, qmq_batch_count(batch)), "ack");
        qmq_batch_free(batch);
    }
    qmq_consumer_free(consumer);
}

int
main(void)
{
    struct qmq_testing *queue;
    if (qmq_testing_start(NULL, &queue) != QMQ_OK) {
        (void)printf("%s\n", qmq_testing_last_error().message);
        return 1;
    }
    struct qmq_client_options options = { .meta = qmq_testing_meta(queue) };
    struct qmq_client *client;
    expect(qmq_connect(&options, &client), "connect");

    order(client, 1, LAST);
    expect(cashier_work(client, 1), "cashier");
    if (qmq_testing_restart(queue) != QMQ_OK) return 1;
    expect(cashier_work(client, LAST - 1), "cashier after the restart");
    print_invoices(client, LAST);

    qmq_client_free(client);
    return qmq_testing_stop(queue) == QMQ_OK ? 0 : 1;
}
