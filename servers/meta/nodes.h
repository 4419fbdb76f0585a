/*
 * meta/nodes.h: the nodes of a cluster: who they are, where, and whether they live.
 *
 * A node is known by its id, never by its host. Its record is stored when it changes; that it lives
 * is a lease, renewed by every register and heart-beat, so that heart-beats write nothing. After a
 * restart of meta every node is taken for alive until its lease has run out once: a route that
 * points to a dead node for seconds does less harm than no route.
 *
 * A broker group is the name of one store. It belongs to the first node that registered with it;
 * another node with the same name is not admitted, and told why.
 *
 * Keys: "nodes/ID" → NodeRecord; "groups/CLUSTER/NAME" → node id.
 *
 * Thread:   the store's. Blocking: as the store.
 * Memory:   nodes stay until _fini().
 */
#ifndef META_NODES_H
#define META_NODES_H

#include <qbase/list.h>
#include <qproto/message.h>

#include "meta/store.h"

enum {
    META_HEARTBEAT_MS = 3 * 1000,
    META_EXPIRY_MS = 10 * 1000,
    META_NODES_MAX = 4096,
    META_NODE_KEY_MAX = 128,
};

struct meta_node {
    struct q_list link;
    char key[META_NODE_KEY_MAX];
    Qmq__Wire__NodeRecord *record; /* NULL: a lease whose node is not known yet */
    uint64_t version;              /* of the stored record */
    uint64_t seen_ns;              /* last sign of life */
    bool alive;
    bool is_presumed; /* alive since meta has started, and not heard from yet */
};

struct meta_nodes {
    struct meta_store *store;
    const struct q_clock *clock;
    struct q_list all; /* struct meta_node */
    uint32_t count;
    uint64_t changes; /* of anything that a route shows */
    char last_refused[META_NODE_KEY_MAX];
};

/* Reads what is stored. On failure nothing is to be undone. */
Q_MUST_CHECK enum q_err meta_nodes_init(
    struct meta_nodes *nodes, struct meta_store *store, const struct q_clock *clock);
void meta_nodes_fini(struct meta_nodes *nodes);

/*
 * A register or a heart-beat.
 *
 * Q_OK       admitted, alive.
 * Q_CONFLICT not admitted; the fault says what it waits for and what helps.
 * Q_INVALID  the record itself is wrong. Q_TOO_BIG: too many nodes. Failures of the store.
 */
Q_MUST_CHECK enum q_err meta_nodes_register(
    struct meta_nodes *nodes, const Qmq__Wire__NodeRecord *record);

#define meta_nodes_for_each(at, nodes) q_list_for_each(at, &(nodes)->all)

static inline const struct meta_node *
meta_node_of(const struct q_list *link)
{
    return q_container_of(link, struct meta_node, link);
}

#endif /* META_NODES_H */
