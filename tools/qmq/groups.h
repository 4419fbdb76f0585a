/*
 * groups.h: what the commands about groups share: which subject is meant, and asking before a change.
 */
#ifndef QMQ_TOOL_GROUPS_H
#define QMQ_TOOL_GROUPS_H

#include "command.h"

/* A group of a subject, with what its broker groups say, added up. */
struct group_row {
    char *subject;
    char *group;
    bool broadcast;
    bool paused;
    uint32_t members; /* the most of any broker group: a consumer joins all of them */
    uint32_t broker_groups;
    uint64_t waiting;
    uint64_t pending;
    uint64_t in_flight;
};

struct group_rows {
    struct group_row *rows; /* by subject and group */
    size_t count;
    size_t capacity;
};

/* All groups, or those of `subject` and `group`, which may be NULL. QMQ_OK, also when there are
 * none, or a failure. Free the rows either way. */
int groups_find(
    struct qmq_client *client, const char *subject, const char *group, struct group_rows *rows);
void groups_free(struct group_rows *rows);

/*
 * The one subject that has the group: `subject` when it is not NULL, else there must be only one.
 * NULL after an error was printed; `*ret_exit` is its exit code. Lives as long as `rows`.
 */
const char *groups_subject(
    struct qmq_client *client,
    const char *subject,
    const char *group,
    struct group_rows *rows,
    int *ret_exit);

/* True: go on. With `yes`, or when the person at the terminal says so. */
bool groups_confirm(const struct command *command, bool yes, int *ret_exit);

/* -o text|json. False after an error was printed. */
bool groups_format(const struct command *command, const char *output, bool *ret_is_json);

#endif /* QMQ_TOOL_GROUPS_H */
