/*
 * redis.c: Redis streams by hiredis: XADD, XREADGROUP and XACK of each id, many in flight. Whether it
 * flushes before it answers is the server's setting.
 */
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "load.h"

enum {
    CREATE_MAX = 500, /* commands in flight while groups are made */
    KEYS_MAX = 100,   /* streams of one read */
    OUT_SOFT = 64 * 1024,
    READS_MAX = 2 /* under way for a backlog, so that the server need not wait for us */
};

struct side {
    const struct load *load;
    redisContext *redis;
    uint64_t group;
    uint64_t reads; /* under way */
    uint64_t received;
    uint64_t next_subject;
    size_t queued;
};

static struct side *
side_new(const struct load *load)
{
    struct side *side = calloc(1, sizeof(*side));
    if (side == NULL) load_die("no memory");
    side->load = load;
    side->redis = redisConnect("127.0.0.1", (int)load->port);
    if (side->redis == NULL || side->redis->err != 0)
        load_die("redis: %s", side->redis == NULL ? "no memory" : side->redis->errstr);
    return side;
}

static void
flush(struct side *side)
{
    int done = 0;
    while (!done)
        if (redisBufferWrite(side->redis, &done) != REDIS_OK)
            load_die("redis: %s", side->redis->errstr);
    side->queued = 0;
}

static redisReply *
checked(redisReply *reply)
{
    if (reply->type == REDIS_REPLY_ERROR) load_die("redis: %s", reply->str);
    return reply;
}

static redisReply *
wait_reply(struct side *side)
{
    void *reply;
    flush(side);
    if (redisGetReply(side->redis, &reply) != REDIS_OK) load_die("redis: %s", side->redis->errstr);
    return checked(reply);
}

static void
create(const struct load *load)
{
    struct side *side = side_new(load);
    uint64_t asked = 0;
    for (uint64_t i = 0; i < load->subjects * load->groups; i++) {
        char subject[32];
        redisAppendCommand(
            side->redis, "XGROUP CREATE %s g%d 0 MKSTREAM", load_subject(subject, i / load->groups),
            (int)(i % load->groups));
        if (++asked < CREATE_MAX) continue;
        for (; asked > 0; asked--)
            freeReplyObject(wait_reply(side));
    }
    for (; asked > 0; asked--)
        freeReplyObject(wait_reply(side));
    redisFree(side->redis);
    free(side);
}

static void *
producer(const struct load *load)
{
    return side_new(load);
}

static void
send_one(void *context, uint64_t subject, const void *message, size_t size)
{
    struct side *side = context;
    char key[32];
    const char *words[] = { "XADD", load_subject(key, subject), "*", "d", message };
    size_t sizes[] = { 4, strlen(key), 1, 1, size };
    redisAppendCommandArgv(side->redis, 5, words, sizes);
    side->queued += size + 64;
    if (side->queued > OUT_SOFT) flush(side);
}

static void
pump(void *context, uint64_t wait_ns)
{
    struct side *side = context;
    uint64_t count = 0;
    flush(side);
    do {
        if (!conn_wait(side->redis->fd, wait_ns)) return;
        if (redisBufferRead(side->redis) != REDIS_OK) load_die("redis: %s", side->redis->errstr);
        void *reply;
        while (redisGetReplyFromReader(side->redis, &reply) == REDIS_OK && reply != NULL) {
            freeReplyObject(checked(reply));
            count++;
        }
    } while (count == 0 && wait_ns == UINT64_MAX);
    load_acked(count);
}

static void *
consumer(const struct load *load, uint64_t group)
{
    struct side *side = side_new(load);
    side->group = group;
    return side;
}

static void
ask(struct side *side)
{
    const struct load *load = side->load;
    char group[32];
    char fetch[32];
    char names[KEYS_MAX][32];
    const char *words[9 + 2 * KEYS_MAX] = { "XREADGROUP", "GROUP", group, "c", "COUNT", fetch };
    int count = 6;
    (void)snprintf(group, sizeof(group), "g%" PRIu64, side->group);
    (void)snprintf(fetch, sizeof(fetch), "%" PRIu64, load->fetch);
    if (load->subjects == 1) {
        words[count++] = "BLOCK";
        words[count++] = "500";
    }
    words[count++] = "STREAMS";
    uint64_t keys = load->subjects - side->next_subject;
    if (keys > KEYS_MAX) keys = KEYS_MAX;
    for (uint64_t i = 0; i < keys; i++)
        words[count++] = load_subject(names[i], side->next_subject + i);
    for (uint64_t i = 0; i < keys; i++)
        words[count++] = ">";
    side->next_subject = (side->next_subject + keys) % load->subjects;
    redisAppendCommandArgv(side->redis, count, words, NULL);
    side->reads++;
}

static void
acknowledge(struct side *side, const redisReply *key, const redisReply *entries)
{
    size_t count = entries->elements;
    char group[32];
    (void)snprintf(group, sizeof(group), "g%" PRIu64, side->group);
    const char **words = malloc((count + 3) * sizeof(char *));
    size_t *sizes = malloc((count + 3) * sizeof(size_t));
    if (words == NULL || sizes == NULL) load_die("no memory");
    words[0] = "XACK";
    words[1] = key->str;
    words[2] = group;
    for (size_t i = 0; i < count; i++)
        words[3 + i] = entries->element[i]->element[0]->str;
    for (size_t i = 0; i < count + 3; i++)
        sizes[i] = strlen(words[i]);
    redisAppendCommandArgv(side->redis, (int)count + 3, words, sizes);
    free(words);
    free(sizes);
}

static uint64_t
receive(void *context, unsigned wait_ms)
{
    (void)wait_ms; /* BLOCK says it */
    struct side *side = context;
    const struct load *load = side->load;
    uint64_t depth = load->live ? 1 : READS_MAX;
    while (side->reads < depth &&
           (side->reads == 0 || side->received + side->reads * load->fetch < load->messages))
        ask(side);
    redisReply *reply = wait_reply(side);
    while (reply->type == REDIS_REPLY_INTEGER) { /* of an XACK */
        freeReplyObject(reply);
        reply = wait_reply(side);
    }
    side->reads--;
    uint64_t count = 0;
    for (size_t i = 0; i < reply->elements; i++) {
        const redisReply *key = reply->element[i]->element[0];
        const redisReply *entries = reply->element[i]->element[1];
        for (size_t j = 0; j < entries->elements; j++) {
            const redisReply *body = entries->element[j]->element[1]->element[1];
            load_message(body->str, (size_t)body->len);
        }
        count += entries->elements;
        if (entries->elements > 0) acknowledge(side, key, entries);
    }
    freeReplyObject(reply);
    side->received += count;
    return count;
}

/* What was sent before it is done when a PING is answered. */
static void
finish(void *context)
{
    struct side *side = context;
    redisAppendCommand(side->redis, "PING");
    bool pong = false;
    while (!pong) {
        redisReply *reply = wait_reply(side);
        pong = reply->type == REDIS_REPLY_STATUS;
        freeReplyObject(reply);
    }
}

static uint64_t
left(const struct load *load, uint64_t group)
{
    struct side *side = side_new(load);
    uint64_t count = 0;
    for (uint64_t i = 0; i < load->subjects; i++) {
        char subject[32];
        redisAppendCommand(side->redis, "XPENDING %s g%d", load_subject(subject, i), (int)group);
        redisReply *reply = wait_reply(side);
        count += (uint64_t)reply->element[0]->integer;
        freeReplyObject(reply);
    }
    redisFree(side->redis);
    free(side);
    return count;
}

const struct load_peer load_peer = {
    create, producer, send_one, pump, consumer, receive, finish, left,
};
