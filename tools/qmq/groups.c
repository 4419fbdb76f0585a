/*
 * groups.c: see groups.h.
 */
#include "groups.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qbase/bytes.h>

struct search {
    const char *group; /* NULL: all */
    struct group_rows *rows;
};

static void add_group(void *context, const struct qmq_group_info *info);
static struct group_row *row_of(struct group_rows *rows, const struct qmq_group_info *info);
static int compare_rows(const void *left, const void *right);

int
groups_find(
    struct qmq_client *client, const char *subject, const char *group, struct group_rows *rows)
{
    *rows = (struct group_rows){ .count = 0 };
    struct search search = { .group = group, .rows = rows };
    int code = qmq_groups(client, subject, add_group, &search);
    if (rows->count > 0) qsort(rows->rows, rows->count, sizeof(rows->rows[0]), compare_rows);
    /* A subject that no broker has yet has no groups. */
    return code == QMQ_NOT_FOUND ? QMQ_OK : code;
}

static void
add_group(void *context, const struct qmq_group_info *info)
{
    const struct search *search = context;
    if (search->group && strcmp(search->group, info->group) != 0) return;
    struct group_row *row = row_of(search->rows, info);
    if (!row) return;
    row->broadcast = info->broadcast;
    row->paused |= info->paused;
    row->members = (uint32_t)q_max_u64(row->members, info->members);
    row->broker_groups++;
    row->waiting += info->waiting;
    row->pending += info->pending;
    row->in_flight += info->in_flight;
}

/* NULL: no memory. */
static struct group_row *
row_of(struct group_rows *rows, const struct qmq_group_info *info)
{
    for (size_t index = 0; index < rows->count; index++) {
        struct group_row *row = &rows->rows[index];
        if (strcmp(row->subject, info->subject) == 0 && strcmp(row->group, info->group) == 0)
            return row;
    }
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity ? rows->capacity * 2 : 64;
        struct group_row *grown = realloc(rows->rows, capacity * sizeof(*grown));
        if (!grown) return NULL;
        rows->rows = grown;
        rows->capacity = capacity;
    }
    struct group_row row = { .subject = strdup(info->subject), .group = strdup(info->group) };
    if (!row.subject || !row.group) {
        free(row.subject);
        free(row.group);
        return NULL;
    }
    rows->rows[rows->count] = row;
    return &rows->rows[rows->count++];
}

static int
compare_rows(const void *left, const void *right)
{
    const struct group_row *a = left;
    const struct group_row *b = right;
    int order = strcmp(a->subject, b->subject);
    return order ? order : strcmp(a->group, b->group);
}

void
groups_free(struct group_rows *rows)
{
    for (size_t index = 0; index < rows->count; index++) {
        free(rows->rows[index].subject);
        free(rows->rows[index].group);
    }
    free(rows->rows);
    *rows = (struct group_rows){ .count = 0 };
}

const char *
groups_subject(
    struct qmq_client *client,
    const char *subject,
    const char *group,
    struct group_rows *rows,
    int *ret_exit)
{
    *ret_exit = EXIT_OK;
    if (groups_find(client, subject, group, rows) != QMQ_OK) {
        *ret_exit = report_error("look for group \"%s\"", group);
        return NULL;
    }
    if (rows->count == 1) return rows->rows[0].subject;
    if (rows->count == 0) {
        (void)Q_FAIL(
            Q_NOT_FOUND,
            .what = subject
                        ? q_text("no broker group knows a group \"%s\" on \"%s\"", group, subject)
                        : q_text("no broker group knows a group \"%s\"", group),
            .hint = "qmq group list");
        *ret_exit = report_error("find group \"%s\"", group);
        return NULL;
    }
    (void)fprintf(stderr, "qmq: group \"%s\" is on %zu subjects:\n", group, rows->count);
    for (size_t index = 0; index < rows->count; index++)
        (void)fprintf(stderr, "  %s\n", rows->rows[index].subject);
    (void)fprintf(stderr, "  try: --subject, which names one of them\n");
    *ret_exit = EXIT_USAGE;
    return NULL;
}

bool
groups_confirm(const struct command *command, bool yes, int *ret_exit)
{
    *ret_exit = EXIT_OK;
    if (yes) return true;
    if (!isatty(STDIN_FILENO) || !isatty(STDERR_FILENO)) {
        *ret_exit =
            usage_error(command, "nobody is here to be asked: --yes does it, --preview only tells");
        return false;
    }
    char answer[16];
    (void)fprintf(stderr, "go on? [y/N] ");
    if (fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y')) return true;
    (void)fprintf(stderr, "nothing was changed\n");
    *ret_exit = EXIT_FAILED;
    return false;
}

bool
groups_format(const struct command *command, const char *output, bool *ret_is_json)
{
    *ret_is_json = strcmp(output, "json") == 0;
    if (*ret_is_json || strcmp(output, "text") == 0) return true;
    (void)usage_error(command, "-o '%s': text or json", output);
    return false;
}
