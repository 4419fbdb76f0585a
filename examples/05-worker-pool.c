/*
 * 05-worker-pool: share work among threads, and among as many machines as there are.
 *
 *     ./05-worker-pool [META]
 *
 * A handler resizes pictures. Start it on several machines: they share the group's work, and come and
 * go at any moment. SIGTERM in a real one would end the wait below.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <qmq/qmq.h>

enum {
    PICTURES = 200,
    STOP_MS = 30 * 1000
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)fprintf(stderr, "%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

/* 0: the message is acknowledged. Anything else: it comes again later, here or elsewhere. */
static int
resize(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    atomic_uint *resized = context;
    if (message->body.size == 0) {
        /* Why, for whoever looks at dead letters. */
        struct qmq_nack_options nack = { .error = "a picture without a name" };
        (void)qmq_delivery_fail(delivery, &nack);
        return 1;
    }
    usleep(1000); /* the work */
    atomic_fetch_add(resized, 1);
    return 0;
}

static void
trouble(void *context, const struct qmq_trouble *trouble)
{
    (void)context;
    (void)fprintf(stderr, "%s: %s\n", trouble->error.name, trouble->error.message);
}

static void
publish(struct qmq_client *client)
{
    struct qmq_producer *producer;
    expect(qmq_producer_new(client, NULL, &producer), "producer");
    for (int number = 0; number < PICTURES; number++) {
        char name[32];
        int size = snprintf(name, sizeof(name), "picture-%d.jpeg", number);
        struct qmq_outgoing message = { .body = { name, (size_t)size } };
        expect(qmq_send(producer, "pictures", &message, NULL, NULL), "send");
    }
    expect(qmq_flush(producer, STOP_MS), "flush");
    qmq_producer_free(producer);
}

int
main(int argc, char **argv)
{
    struct qmq_client_options options = { .meta = argc > 1 ? argv[1] : NULL };
    struct qmq_client *client;
    expect(qmq_connect(&options, &client), "connect");
    publish(client);

    atomic_uint resized = 0;
    struct qmq_consumer_options from = { .subject = "pictures", .group = "resize" };
    struct qmq_push_options workers = {
        .consumer = &from,
        .handler = resize,
        .context = &resized,
        .threads = 8,
        .trouble = trouble,
    };
    struct qmq_push *push;
    expect(qmq_push_new(client, &workers, &push), "workers");
    while (atomic_load(&resized) < PICTURES)
        usleep(10000);

    /* What runs is waited for; what was not begun goes to other machines at once. */
    expect(qmq_push_stop(push, STOP_MS), "stop");
    struct qmq_push_info info;
    qmq_push_info(push, &info);
    (void)printf(
        "%llu pictures, %llu failed\n", (unsigned long long)info.handled,
        (unsigned long long)info.failed);
    qmq_push_free(push);
    qmq_client_free(client);
    return 0;
}
