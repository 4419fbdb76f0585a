/*
 * 08-broadcast-cache: every web server drops what has changed from its cache.
 *
 *     ./08-broadcast-cache [META]
 *
 * A broadcast consumer is a group of its own and gets every message. Two stand for two machines here;
 * a real one has a consumer id that is stable, so that it misses nothing over a restart.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qmq/qmq.h>

enum {
    WAIT_MS = 60 * 1000
};

/* The price of one article, in cents; 0: not in the cache. */
struct cache {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const char *machine;
    unsigned price;
    struct qmq_push *push;
};

static void
expect(int code, const char *what)
{
    if (code == QMQ_OK) return;
    (void)fprintf(stderr, "%s: %s\n", what, qmq_last_error().message);
    exit(1);
}

static int
refresh(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    struct cache *cache = context;
    char price[16] = "";
    (void)delivery;
    if (message->body.size >= sizeof(price)) return 1;
    memcpy(price, message->body.data, message->body.size);

    pthread_mutex_lock(&cache->lock);
    cache->price = (unsigned)strtoul(price, NULL, 10);
    pthread_cond_signal(&cache->changed);
    pthread_mutex_unlock(&cache->lock);
    return 0;
}

static void
join(struct cache *cache, struct qmq_client *client, const char *machine)
{
    cache->machine = machine;
    pthread_mutex_init(&cache->lock, NULL);
    pthread_cond_init(&cache->changed, NULL);
    struct qmq_consumer_options from = {
        .subject = "prices",
        .consumer = machine,
        .broadcast = true,
        .start = QMQ_START_LATEST, /* an empty cache needs no history */
    };
    struct qmq_push_options options = { .consumer = &from, .handler = refresh, .context = cache };
    expect(qmq_push_new(client, &options, &cache->push), "join");
}

static void
wait_price(struct cache *cache, unsigned price)
{
    pthread_mutex_lock(&cache->lock);
    while (cache->price != price)
        pthread_cond_wait(&cache->changed, &cache->lock);
    pthread_mutex_unlock(&cache->lock);
    (void)printf("%s: %u\n", cache->machine, price);
}

int
main(int argc, char **argv)
{
    struct qmq_client_options options = { .meta = argc > 1 ? argv[1] : NULL };
    struct qmq_client *client;
    struct qmq_producer *producer;
    expect(qmq_connect(&options, &client), "connect");
    expect(qmq_producer_new(client, NULL, &producer), "producer");

    struct cache caches[2] = { { .price = 0 }, { .price = 0 } };
    join(&caches[0], client, "web1");
    join(&caches[1], client, "web2");

    struct qmq_outgoing message = { .body = { "1999", 4 } };
    expect(qmq_send_wait(producer, "prices", &message, NULL), "send");
    for (int index = 0; index < 2; index++) {
        wait_price(&caches[index], 1999);
        expect(qmq_push_stop(caches[index].push, WAIT_MS), "stop");
        qmq_push_free(caches[index].push);
    }
    qmq_producer_free(producer);
    qmq_client_free(client);
    return 0;
}
