/*
 * once.c: which messages were handled, in the memory of one process.
 *
 * What is done is in the order in which it was, and leaves from the old end, by age or to make room.
 * What is being handled stays.
 */
#include <pthread.h>
#include <stdlib.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>
#include <qbase/list.h>
#include <qbase/map.h>
#include <qmq/qmq.h>

#include "support.h"

enum {
    COUNT_DEFAULT = 100 * 1000,
    KEEP_MS_DEFAULT = 10 * 60 * 1000,
};

struct entry {
    struct q_list node; /* of busy, done or unused */
    uint64_t hash;
    uint64_t done_ns;
    bool is_done;
    size_t size;
    char *key;
};

struct memory {
    struct qmq_once once; /* its context is this */
    uint64_t keep_ns;

    pthread_mutex_t lock; /* guards what follows */
    struct q_map map;     /* by hash of the key to the number of an entry */
    struct entry *all;
    uint32_t count_max;
    uint32_t count; /* of `all`, ever used */
    struct q_list busy;
    struct q_list done;
    struct q_list unused;
};

static enum q_err memory_new(
    const struct qmq_once_memory_options *options, struct qmq_once **ret_once);
static enum qmq_once_state begin(void *context, struct qmq_bytes key);
static int end(void *context, struct qmq_bytes key, bool is_done);
static void expire(struct memory *memory);
static struct entry *find(const struct memory *memory, struct qmq_bytes key, uint64_t hash);
static bool is_equal(const void *key, uint32_t value, const void *context);
static struct entry *add(struct memory *memory, struct qmq_bytes key, uint64_t hash);
static struct entry *find_room(struct memory *memory);
static void drop(struct memory *memory, struct entry *entry);
static uint64_t hash_of(struct qmq_bytes key);
static uint64_t now_ns(void);

int
qmq_once_memory_new(const struct qmq_once_memory_options *options, struct qmq_once **ret_once)
{
    static const struct qmq_once_memory_options defaults;
    return memory_new(options ? options : &defaults, ret_once);
}

static enum q_err
memory_new(const struct qmq_once_memory_options *options, struct qmq_once **ret_once)
{
    struct memory *memory = calloc(1, sizeof(*memory));
    if (!memory) return Q_FAIL(Q_E_NOMEM);
    memory->once = (struct qmq_once){ .context = memory, .begin = begin, .end = end };
    uint64_t keep_ms = options->keep_ms ? options->keep_ms : KEEP_MS_DEFAULT;
    memory->keep_ns = keep_ms * (uint64_t)Q_NS_PER_MS;
    memory->count_max = options->count_max ? options->count_max : COUNT_DEFAULT;
    pthread_mutex_init(&memory->lock, NULL);
    q_list_init(&memory->busy);
    q_list_init(&memory->done);
    q_list_init(&memory->unused);
    /* Untouched pages cost nothing. */
    memory->all = calloc(memory->count_max, sizeof(*memory->all));
    if (!memory->all) {
        qmq_once_memory_free(&memory->once);
        return Q_FAIL(Q_E_NOMEM);
    }
    *ret_once = &memory->once;
    return Q_OK;
}

void
qmq_once_memory_free(struct qmq_once *once)
{
    if (!once) return;
    struct memory *memory = once->context;
    for (uint32_t index = 0; index < memory->count; index++)
        free(memory->all[index].key);
    free(memory->all);
    q_map_fini(&memory->map);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

static enum qmq_once_state
begin(void *context, struct qmq_bytes key)
{
    struct memory *memory = context;
    uint64_t hash = hash_of(key);
    enum qmq_once_state state = QMQ_ONCE_NEW;

    pthread_mutex_lock(&memory->lock);
    expire(memory);
    const struct entry *entry = find(memory, key, hash);
    if (entry)
        state = entry->is_done ? QMQ_ONCE_DONE : QMQ_ONCE_BUSY;
    else if (!add(memory, key, hash))
        state = QMQ_ONCE_FAILED;
    pthread_mutex_unlock(&memory->lock);
    return state;
}

static int
end(void *context, struct qmq_bytes key, bool is_done)
{
    struct memory *memory = context;

    pthread_mutex_lock(&memory->lock);
    struct entry *entry = find(memory, key, hash_of(key));
    if (entry && is_done) {
        entry->is_done = true;
        entry->done_ns = now_ns();
        q_list_remove(&entry->node);
        q_list_push_back(&memory->done, &entry->node);
    } else if (entry) {
        drop(memory, entry);
    }
    pthread_mutex_unlock(&memory->lock);
    return QMQ_OK;
}

static void
expire(struct memory *memory)
{
    uint64_t now = now_ns();
    q_list_for_each_safe(node, &memory->done) {
        struct entry *entry = q_container_of(node, struct entry, node);
        if (now - entry->done_ns < memory->keep_ns) break;
        drop(memory, entry);
    }
}

static struct entry *
find(const struct memory *memory, struct qmq_bytes key, uint64_t hash)
{
    uint32_t number;
    bool is_known = q_map_get(&memory->map, hash, is_equal, &key, memory, &number);
    return is_known ? &memory->all[number] : NULL;
}

static bool
is_equal(const void *key, uint32_t value, const void *context)
{
    const struct qmq_bytes *wanted = key;
    const struct entry *entry = &((const struct memory *)context)->all[value];
    return entry->size == wanted->size &&
           (wanted->size == 0 || memcmp(entry->key, wanted->data, wanted->size) == 0);
}

/* NULL: all that there is room for is being handled, or there is no memory. */
static struct entry *
add(struct memory *memory, struct qmq_bytes key, uint64_t hash)
{
    struct entry *entry = find_room(memory);
    if (!entry) return NULL;
    char *copy = malloc(key.size + 1);
    bool is_put = copy && q_map_put(&memory->map, hash, (uint32_t)(entry - memory->all)) == Q_OK;
    if (!is_put) {
        free(copy);
        q_list_push_back(&memory->unused, &entry->node);
        return NULL;
    }
    if (key.size > 0) memcpy(copy, key.data, key.size);
    entry->key = copy;
    entry->size = key.size;
    entry->hash = hash;
    entry->is_done = false;
    q_list_push_back(&memory->busy, &entry->node);
    return entry;
}

/* In no list. */
static struct entry *
find_room(struct memory *memory)
{
    struct q_list *node = q_list_pop_front(&memory->unused);
    if (node) return q_container_of(node, struct entry, node);
    if (memory->count < memory->count_max) {
        struct entry *entry = &memory->all[memory->count++];
        q_list_init(&entry->node);
        return entry;
    }
    if (q_list_is_empty(&memory->done)) return NULL;
    drop(memory, q_container_of(memory->done.next, struct entry, node));
    return q_container_of(q_list_pop_front(&memory->unused), struct entry, node);
}

static void
drop(struct memory *memory, struct entry *entry)
{
    (void)q_map_remove(&memory->map, entry->hash, (uint32_t)(entry - memory->all));
    free(entry->key);
    entry->key = NULL;
    q_list_remove(&entry->node);
    q_list_push_front(&memory->unused, &entry->node);
}

/* FNV-1a. */
static uint64_t
hash_of(struct qmq_bytes key)
{
    const uint8_t *bytes = key.data;
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t index = 0; index < key.size; index++)
        hash = (hash ^ bytes[index]) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t
now_ns(void)
{
    return q_clock_monotonic_ns(q_clock_system());
}
