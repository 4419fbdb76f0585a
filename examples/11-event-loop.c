/*
 * 11-event-loop: a producer and a consumer in somebody else's event loop, on one thread.
 *
 *     ./11-event-loop
 *
 * The loop is poll() on two file descriptors. What the library has to say waits until the loop asks: outcomes
 * of messages in qmq_producer_dispatch(), messages in qmq_pull_now(). Neither of them waits, nor does a send.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include <qmq/testing.h>

enum {
    MESSAGES = 3
};

/* What the loop knows. */
struct loop {
    struct qmq_client *client;
    struct qmq_producer *producer;
    struct qmq_consumer *consumer;
    int sent;
    int stored;
    int received;
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)printf("%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

static void
start(struct loop *loop, const char *meta)
{
    const struct qmq_client_options client = { .meta = meta };
    const struct qmq_producer_options producer = { .foreign_loop = true };
    const struct qmq_consumer_options consumer = { .subject = "orders", .group = "loop" };
    expect(qmq_connect(&client, &loop->client), "connect");
    expect(qmq_producer_new(loop->client, &producer, &loop->producer), "producer");
    expect(qmq_consumer_new(loop->client, &consumer, &loop->consumer), "consumer");
}

/* Runs inside qmq_producer_dispatch(), on the thread of the loop: it may touch what the loop has. */
static void
on_sent(void *context, const struct qmq_sent *sent)
{
    struct loop *loop = context;
    expect(sent->code, "outcome");
    loop->stored++;
}

static void
send_one(struct loop *loop)
{
    char text[16];
    int size = snprintf(text, sizeof(text), "order %d", loop->sent + 1);
    const struct qmq_outgoing message = { .body = { text, (size_t)size } };
    int code = qmq_send(loop->producer, "orders", &message, on_sent, loop);
    if (code == QMQ_BUSY) return; /* later: some outcomes have to be dispatched first */
    expect(code, "send");
    loop->sent++;
}

static void
take(struct loop *loop)
{
    struct qmq_batch *batch;
    int code = qmq_pull_now(loop->consumer, 0, &batch);
    if (code == QMQ_AGAIN) return;
    expect(code, "pull");
    for (size_t index = 0; index < qmq_batch_count(batch); index++) {
        const struct qmq_message *message = qmq_batch_message(batch, index);
        (void)printf("%.*s\n", (int)message->body.size, (const char *)message->body.data);
        loop->received++;
    }
    expect(qmq_ack(loop->consumer, batch, 0, qmq_batch_count(batch)), "ack");
    qmq_batch_free(batch);
}

static void
run(struct loop *loop)
{
    struct pollfd fds[] = { { .fd = qmq_producer_fd(loop->producer), .events = POLLIN },
                            { .events = POLLIN } };
    expect(qmq_consumer_fd(loop->consumer, &fds[1].fd), "file descriptor");

    while (loop->received < MESSAGES || loop->stored < MESSAGES) {
        if (loop->sent < MESSAGES) send_one(loop);
        if (poll(fds, 2, loop->sent < MESSAGES ? 0 : -1) < 0) exit(1);
        if (fds[0].revents) expect(qmq_producer_dispatch(loop->producer), "dispatch");
        if (fds[1].revents) take(loop);
    }
}

int
main(void)
{
    struct qmq_testing *queue;
    if (qmq_testing_start(NULL, &queue) != QMQ_OK) {
        (void)printf("%s\n", qmq_testing_last_error().message);
        return 1;
    }
    struct loop loop = { .sent = 0 };
    start(&loop, qmq_testing_meta(queue));
    run(&loop);
    (void)printf("%d sent, %d stored, %d received\n", loop.sent, loop.stored, loop.received);
    qmq_consumer_free(loop.consumer);
    qmq_producer_free(loop.producer);
    qmq_client_free(loop.client);
    return qmq_testing_stop(queue) == QMQ_OK ? 0 : 1;
}
