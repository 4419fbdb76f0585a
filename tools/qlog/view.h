/*
 * view.h: ways to print a log: its records as they are, or what follows from them.
 */
#ifndef QLOG_TOOL_VIEW_H
#define QLOG_TOOL_VIEW_H

#include <qlog/cursor.h>

#include "names.h"

struct viewer {
    bool json;
    struct names names;
    char *text; /* a record as text; grows to the longest */
    size_t text_size;
};

struct view {
    const char *name; /* of --log; NULL: for every other log */
    const char *log;  /* that it reads; NULL: the one that was asked for */
    /* Q_OK, Q_E_CORRUPT (the record does not decode), Q_E_NOMEM. */
    enum q_err (*print)(struct viewer *viewer, const struct qlog_record *record);
};

/* The view of that name; `log` NULL is the first log of a directory. */
const struct view *view_find(const char *log);
void viewer_fini(struct viewer *viewer);

#endif /* QLOG_TOOL_VIEW_H */
