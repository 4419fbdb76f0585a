/*
 * table.h: rows of cells on stdout, in columns as wide as they need.
 *
 *     struct table table = { .heads = heads, .column_count = 2 };
 *     table_cell(&table, "%s", name);
 *     table_cell(&table, "%llu", number);
 *     table_print(&table);
 *
 * Memory: table_print() frees the cells. Without memory a cell is left empty.
 */
#ifndef QMQ_TOOL_TABLE_H
#define QMQ_TOOL_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include <qbase/err.h>

struct table_head {
    const char *name;
    bool is_number; /* to the right */
};

struct table {
    const struct table_head *heads;
    size_t column_count;
    char **cells;
    size_t cell_count;
    size_t cell_capacity;
};

void table_cell(struct table *table, const char *format, ...) Q_PRINTF(2, 3);
/* The heads, unless there are no rows, and the rows. */
void table_print(struct table *table);

/* "1.5 s", "3 m 20 s", "2 d 4 h" into `out`; returns `out`. */
const char *table_age(uint64_t ms, char *out, size_t out_size);

#endif /* QMQ_TOOL_TABLE_H */
