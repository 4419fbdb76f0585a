/*
 * qbase/list.h: intrusive doubly linked list with a head.
 *
 * The node lives in the object; nothing is allocated. A node is in one list at most. Not
 * thread-safe: the owner of the list calls.
 */
#ifndef QBASE_LIST_H
#define QBASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct q_list {
    struct q_list *next;
    struct q_list *prev;
};

/* A link of qbase/mailbox.h, here so that public structs can embed one without atomics. */
struct q_mailbox_node {
    struct q_mailbox_node *next;
};

/* clang-format off */
#define Q_LIST_INIT(name) { &(name), &(name) }
/* clang-format on */

#define q_container_of(pointer, type, member)                                                      \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

static inline void
q_list_init(struct q_list *head)
{
    head->next = head;
    head->prev = head;
}

static inline bool
q_list_is_empty(const struct q_list *head)
{
    return head->next == head;
}

/* Whether a node initialised by q_list_init() or q_list_remove() is in a list. */
static inline bool
q_list_is_linked(const struct q_list *node)
{
    return node->next != node;
}

static inline void
q_list_insert_before(struct q_list *at, struct q_list *node)
{
    node->prev = at->prev;
    node->next = at;
    at->prev->next = node;
    at->prev = node;
}

static inline void
q_list_push_back(struct q_list *head, struct q_list *node)
{
    q_list_insert_before(head, node);
}

static inline void
q_list_push_front(struct q_list *head, struct q_list *node)
{
    q_list_insert_before(head->next, node);
}

/* The node is left initialised, so that removing it twice does no harm. */
static inline void
q_list_remove(struct q_list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    q_list_init(node);
}

/* First node, taken out; NULL when empty. */
static inline struct q_list *
q_list_pop_front(struct q_list *head)
{
    struct q_list *node = head->next;
    if (node == head) return NULL;
    q_list_remove(node);
    return node;
}

/* All nodes of `from` move to the end of `to`; `from` is empty then. */
static inline void
q_list_splice_back(struct q_list *to, struct q_list *from)
{
    if (q_list_is_empty(from)) return;
    from->next->prev = to->prev;
    to->prev->next = from->next;
    from->prev->next = to;
    to->prev = from->prev;
    q_list_init(from);
}

/* `at` is declared here, so it can't be in parentheses. */
/* NOLINTBEGIN(bugprone-macro-parentheses) */
#define q_list_for_each(at, head)                                                                  \
    for (struct q_list *at = (head)->next; at != (head); at = at->next)

/* `at` may be removed inside the loop. */
#define q_list_for_each_safe(at, head)                                                             \
    for (struct q_list *at = (head)->next, *at##_next = at->next; at != (head);                    \
         at = at##_next, at##_next = at->next)
/* NOLINTEND(bugprone-macro-parentheses) */

#endif /* QBASE_LIST_H */
