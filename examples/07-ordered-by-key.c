/*
 * 07-ordered-by-key: the events of one account in order, those of different ones at the same time.
 *
 *     ./07-ordered-by-key [META]
 *
 * There are no partitions: the account is the order key, any number of threads and machines work on
 * all accounts, and the events of one are never in two hands.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qmq/qmq.h>

enum {
    ACCOUNTS = 3,
    WAIT_MS = 60 * 1000
};

static const char *const events[] = { "opened", "paid-in", "paid-out", "closed" };
enum {
    EVENTS = sizeof(events) / sizeof(events[0])
};

struct accounts {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    char history[ACCOUNTS][64];
    int handled;
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)fprintf(stderr, "%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

/* "2 paid-in" */
static int
handle(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    struct accounts *accounts = context;
    char body[32] = "";
    (void)delivery;
    if (message->body.size < 3 || message->body.size >= sizeof(body)) return 1;
    memcpy(body, message->body.data, message->body.size);
    int account = body[0] - '0';
    if (account < 0 || account >= ACCOUNTS) return 1;

    pthread_mutex_lock(&accounts->lock);
    char *history = accounts->history[account];
    (void)snprintf(history + strlen(history), 64 - strlen(history), "%s", body + 1);
    accounts->handled++;
    pthread_cond_signal(&accounts->changed);
    pthread_mutex_unlock(&accounts->lock);
    return 0;
}

static void
publish(struct qmq_client *client)
{
    struct qmq_producer *producer;
    expect(qmq_producer_new(client, NULL, &producer), "producer");
    for (int index = 0; index < EVENTS * ACCOUNTS; index++) {
        char key = (char)('0' + index % ACCOUNTS);
        char body[32];
        int size = snprintf(body, sizeof(body), "%c %s", key, events[index / ACCOUNTS]);
        struct qmq_outgoing message = {
            .body = { body, (size_t)size },
            .order_key = { &key, 1 },
        };
        expect(qmq_send(producer, "accounts", &message, NULL, NULL), "send");
    }
    expect(qmq_flush(producer, WAIT_MS), "flush");
    qmq_producer_free(producer);
}

int
main(int argc, char **argv)
{
    struct qmq_client_options options = { .meta = argc > 1 ? argv[1] : NULL };
    struct qmq_client *client;
    expect(qmq_connect(&options, &client), "connect");

    /* Strict: what comes after an event that failed waits for it, however often it is tried. */
    struct qmq_consumer_options from = { .subject = "accounts", .group = "ledger" };
    struct qmq_consumer *consumer;
    expect(qmq_consumer_new(client, &from, &consumer), "consumer");
    qmq_consumer_free(consumer);
    struct qmq_control strict = { .kind = QMQ_CONTROL_SETTINGS, .settings = { .strict = true } };
    expect(qmq_group_control(client, "accounts", "ledger", &strict, NULL, NULL), "strict");
    publish(client);

    struct accounts accounts = { .handled = 0 };
    pthread_mutex_init(&accounts.lock, NULL);
    pthread_cond_init(&accounts.changed, NULL);
    struct qmq_push_options workers = {
        .consumer = &from, .handler = handle, .context = &accounts, .threads = 4
    };
    struct qmq_push *push;
    expect(qmq_push_new(client, &workers, &push), "workers");
    pthread_mutex_lock(&accounts.lock);
    while (accounts.handled < EVENTS * ACCOUNTS)
        pthread_cond_wait(&accounts.changed, &accounts.lock);
    pthread_mutex_unlock(&accounts.lock);
    expect(qmq_push_stop(push, WAIT_MS), "stop");
    qmq_push_free(push);

    for (int account = 0; account < ACCOUNTS; account++)
        (void)printf("account %d:%s\n", account, accounts.history[account]);
    qmq_client_free(client);
    return 0;
}
