/*
 * nodes.c: register, heart-beat, expiry.
 *
 * The table in memory follows the store through watch: what this process writes comes back the
 * same way as what another meta server would write.
 */
#include "meta/nodes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

enum {
    ADDRESS_MAX = 200,
    SHORT_TEXT_MAX = 64
};

#define NODES_PREFIX "nodes/"

static bool load_one(void *context, const char *key, struct q_bytes value, uint64_t version);
static void on_change(
    void *context, enum meta_change change, const char *key, struct q_bytes value);
static enum q_err check_record(const Qmq__Wire__NodeRecord *record);
static enum q_err claim_group(struct meta_nodes *nodes, const Qmq__Wire__NodeRecord *record);
static enum q_err store_record(
    struct meta_nodes *nodes, const char *key, const Qmq__Wire__NodeRecord *record);
static bool is_same(const Qmq__Wire__NodeRecord *a, const Qmq__Wire__NodeRecord *b);
static void set_alive(struct meta_nodes *nodes, struct meta_node *node, bool alive);
static struct meta_node *find(const struct meta_nodes *nodes, const char *key);
static struct meta_node *find_or_add(struct meta_nodes *nodes, const char *key);
static const char *node_key(const char *node_id);

enum q_err
meta_nodes_init(struct meta_nodes *nodes, struct meta_store *store, const struct q_clock *clock)
{
    *nodes = (struct meta_nodes){ .store = store, .clock = clock };
    q_list_init(&nodes->all);

    enum q_err err = meta_list(store, NODES_PREFIX, load_one, nodes);
    if (err == Q_OK) err = meta_watch(store, NODES_PREFIX, on_change, nodes);
    q_list_for_each(at, &nodes->all) {
        if (err != Q_OK) break;
        /* Until it is known better. */
        struct meta_node *node = q_container_of(at, struct meta_node, link);
        node->seen_ns = q_clock_monotonic_ns(clock);
        node->alive = true;
        node->is_presumed = true;
        err = meta_lease(store, node->key, (uint64_t)META_EXPIRY_MS * Q_NS_PER_MS);
    }
    if (err != Q_OK) meta_nodes_fini(nodes);
    return err;
}

static bool
load_one(void *context, const char *key, struct q_bytes value, uint64_t version)
{
    struct meta_nodes *nodes = context;
    on_change(nodes, META_SET, key, value);
    struct meta_node *node = find(nodes, key);
    if (node) node->version = version;
    return true;
}

void
meta_nodes_fini(struct meta_nodes *nodes)
{
    q_list_for_each_safe(at, &nodes->all) {
        struct meta_node *node = q_container_of(at, struct meta_node, link);
        if (node->record) qmq__wire__node_record__free_unpacked(node->record, NULL);
        free(node);
    }
    q_list_init(&nodes->all);
    nodes->count = 0;
}

enum q_err
meta_nodes_register(struct meta_nodes *nodes, const Qmq__Wire__NodeRecord *record)
{
    Q_TRY(check_record(record));

    char key[META_NODE_KEY_MAX];
    (void)snprintf(key, sizeof(key), "%s", node_key(record->node_id));
    struct meta_node *node = find(nodes, key);
    bool is_known = node && node->record;
    if (!is_known && nodes->count >= META_NODES_MAX)
        return Q_FAIL(
            Q_TOO_BIG,
            .what = q_text("meta knows %u nodes, at most %d fit", nodes->count, META_NODES_MAX));
    if (is_known && strcmp(node->record->broker_group, record->broker_group) != 0)
        return Q_FAIL(
            Q_CONFLICT,
            .what = q_text(
                "node %s is broker group '%s', and a store keeps its name; start it with "
                "--broker-group %s",
                record->node_id, node->record->broker_group, node->record->broker_group));

    if (!is_known || !is_same(node->record, record)) {
        Q_TRY(claim_group(nodes, record));
        Q_TRY(store_record(nodes, key, record));
        srv_log(
            is_known ? SRV_META_NODE_CHANGED : SRV_META_NODE_NEW,
            "node=%s role=%s group=%s address=%s version=%s", record->node_id, record->role,
            record->broker_group, srv_quote(record->address), srv_quote(record->version));
    }
    Q_TRY(meta_lease(nodes->store, key, (uint64_t)META_EXPIRY_MS * Q_NS_PER_MS));
    node = find(nodes, key);
    if (!node) return Q_FAIL(Q_E_NOMEM);
    node->seen_ns = q_clock_monotonic_ns(nodes->clock);
    node->is_presumed = false;
    return Q_OK;
}

static enum q_err
check_record(const Qmq__Wire__NodeRecord *record)
{
    Q_TRY(qproto_check_name("node id", record->node_id, SHORT_TEXT_MAX));
    Q_TRY(qproto_check_name("cluster", record->cluster, SHORT_TEXT_MAX));
    Q_TRY(qproto_check_name("broker group", record->broker_group, QPROTO_GROUP_MAX));
    Q_TRY(qproto_check_name("role", record->role, SHORT_TEXT_MAX));
    if (!strstr(record->address, "://") || strlen(record->address) > ADDRESS_MAX)
        return Q_FAIL(
            Q_INVALID, .what = q_text("the address '%.80s' is no url", record->address),
            .hint = "use tcp://HOST:PORT");
    const char *one_way = record->one_way_address;
    if (*one_way && (!strstr(one_way, "://") || strlen(one_way) > ADDRESS_MAX))
        return Q_FAIL(
            Q_INVALID, .what = q_text("the address '%.80s' is no url", one_way),
            .hint = "use tcp://HOST:PORT");
    if (strlen(record->version) > SHORT_TEXT_MAX)
        return Q_FAIL(Q_INVALID, .what = "the version is too long");
    return Q_OK;
}

/* The name of a store belongs to the node that had it first. */
static enum q_err
claim_group(struct meta_nodes *nodes, const Qmq__Wire__NodeRecord *record)
{
    char key[META_KEY_MAX];
    (void)snprintf(
        key, sizeof(key), "groups/%s/%s-%s", record->cluster, record->role, record->broker_group);

    uint64_t version;
    enum q_err err =
        meta_compare_and_set(nodes->store, key, 0, q_bytes_from_text(record->node_id), &version);
    if (err != Q_CONFLICT) return err;

    struct q_bytes owner;
    Q_TRY(meta_get(nodes->store, key, &owner, &version));
    if (q_bytes_equal(owner, q_bytes_from_text(record->node_id))) return Q_OK;

    char owner_id[SHORT_TEXT_MAX + 1];
    (void)snprintf(owner_id, sizeof(owner_id), "%.*s", (int)owner.size, (const char *)owner.data);
    const struct meta_node *node = find(nodes, node_key(owner_id));
    if (strcmp(nodes->last_refused, record->node_id) != 0) {
        (void)snprintf(nodes->last_refused, sizeof(nodes->last_refused), "%s", record->node_id);
        srv_log(
            SRV_META_NODE_REFUSED, "node=%s group=%s owner=%s address=%s", record->node_id,
            record->broker_group, owner_id, srv_quote(record->address));
    }
    return Q_FAIL(
        Q_CONFLICT, .what = q_text(
                        "broker group '%s' is the store of node %s at %s; start this one with "
                        "another --broker-group, or with that node's data directory",
                        record->broker_group, owner_id,
                        node && node->record ? node->record->address : "an unknown address"));
}

static enum q_err
store_record(struct meta_nodes *nodes, const char *key, const Qmq__Wire__NodeRecord *record)
{
    uint8_t packed[1024];
    size_t size = qmq__wire__node_record__get_packed_size(record);
    if (size > sizeof(packed))
        return Q_FAIL(Q_TOO_BIG, .what = q_text("a node's record of %zu bytes", size));
    qmq__wire__node_record__pack(record, packed);

    const struct meta_node *node = find(nodes, key);
    uint64_t version = node ? node->version : 0;
    Q_TRY(meta_compare_and_set(nodes->store, key, version, q_bytes_from(packed, size), &version));
    struct meta_node *stored = find(nodes, key);
    if (stored) stored->version = version;
    return Q_OK;
}

static void
on_change(void *context, enum meta_change change, const char *key, struct q_bytes value)
{
    struct meta_nodes *nodes = context;
    struct meta_node *node = find_or_add(nodes, key);
    if (!node) return; /* no memory: the node's next sign of life tries again */

    if (change != META_SET) {
        set_alive(nodes, node, change == META_ALIVE);
        return;
    }
    Qmq__Wire__NodeRecord *record = qmq__wire__node_record__unpack(NULL, value.size, value.data);
    if (!record) {
        srv_log(SRV_META_FAILED, "key=%s cause=%s", key, srv_quote("a stored record is damaged"));
        return;
    }
    if (node->record) qmq__wire__node_record__free_unpacked(node->record, NULL);
    node->record = record;
    nodes->changes++;
}

static void
set_alive(struct meta_nodes *nodes, struct meta_node *node, bool alive)
{
    if (node->alive == alive) return;
    bool is_return = alive && node->seen_ns > 0;
    node->alive = alive;
    nodes->changes++;
    if (!node->record) return;

    const char *address = srv_quote(node->record->address);
    if (is_return)
        srv_log(
            SRV_META_NODE_BACK, "node=%s group=%s address=%s", node->record->node_id,
            node->record->broker_group, address);
    if (!alive)
        srv_log(
            SRV_META_NODE_DEAD, "node=%s group=%s address=%s silent_ms=%llu", node->record->node_id,
            node->record->broker_group, address,
            (unsigned long long)((q_clock_monotonic_ns(nodes->clock) - node->seen_ns) / Q_NS_PER_MS));
}

static bool
is_same(const Qmq__Wire__NodeRecord *a, const Qmq__Wire__NodeRecord *b)
{
    return strcmp(a->node_id, b->node_id) == 0 && strcmp(a->cluster, b->cluster) == 0 &&
           strcmp(a->broker_group, b->broker_group) == 0 && strcmp(a->role, b->role) == 0 &&
           strcmp(a->address, b->address) == 0 && strcmp(a->version, b->version) == 0 &&
           strcmp(a->one_way_address, b->one_way_address) == 0 && a->read_only == b->read_only;
}

static struct meta_node *
find(const struct meta_nodes *nodes, const char *key)
{
    q_list_for_each(at, &nodes->all) {
        struct meta_node *node = q_container_of(at, struct meta_node, link);
        if (strcmp(node->key, key) == 0) return node;
    }
    return NULL;
}

static struct meta_node *
find_or_add(struct meta_nodes *nodes, const char *key)
{
    struct meta_node *node = find(nodes, key);
    if (node) return node;
    node = calloc(1, sizeof(*node));
    if (!node) return NULL;
    (void)snprintf(node->key, sizeof(node->key), "%s", key);
    q_list_push_back(&nodes->all, &node->link);
    nodes->count++;
    return node;
}

static const char *
node_key(const char *node_id)
{
    return q_text(NODES_PREFIX "%s", node_id);
}
