/*
 * table.c: see table.h.
 */
#include "table.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

static const char *cell_at(const struct table *table, size_t index);
static size_t width_of(const struct table *table, size_t column);
static void print_cell(const struct table *table, size_t column, size_t width, const char *text);

void
table_cell(struct table *table, const char *format, ...)
{
    if (table->cell_count == table->cell_capacity) {
        size_t capacity = table->cell_capacity ? table->cell_capacity * 2 : 64;
        char **grown = realloc(table->cells, capacity * sizeof(char *));
        if (!grown) return;
        table->cells = grown;
        table->cell_capacity = capacity;
    }
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int length = vasprintf(&text, format, args);
    va_end(args);
    table->cells[table->cell_count++] = length < 0 ? NULL : text;
}

void
table_print(struct table *table)
{
    size_t rows = table->cell_count / table->column_count;
    for (size_t row = 0; rows > 0 && row <= rows; row++) {
        for (size_t column = 0; column < table->column_count; column++) {
            const char *text = row == 0 ? table->heads[column].name
                                        : cell_at(table, (row - 1) * table->column_count + column);
            print_cell(table, column, width_of(table, column), text);
        }
        (void)putchar('\n');
    }
    for (size_t index = 0; index < table->cell_count; index++)
        free(table->cells[index]);
    free(table->cells);
    table->cells = NULL;
    table->cell_count = table->cell_capacity = 0;
}

static const char *
cell_at(const struct table *table, size_t index)
{
    return table->cells[index] ? table->cells[index] : "";
}

static size_t
width_of(const struct table *table, size_t column)
{
    size_t width = strlen(table->heads[column].name);
    for (size_t index = column; index < table->cell_count; index += table->column_count)
        width = q_max_u64(width, strlen(cell_at(table, index)));
    return width;
}

/* The last column has no blanks behind it. */
static void
print_cell(const struct table *table, size_t column, size_t width, const char *text)
{
    bool is_last = column + 1 == table->column_count;
    if (table->heads[column].is_number)
        (void)printf("%*s", (int)width, text);
    else if (is_last)
        (void)printf("%s", text);
    else
        (void)printf("%-*s", (int)width, text);
    if (!is_last) (void)printf("  ");
}

const char *
table_age(uint64_t ms, char *out, size_t out_size)
{
    uint64_t seconds = ms / Q_MS_PER_S;
    unsigned long long minutes = seconds / 60;
    unsigned long long hours = minutes / 60;
    if (ms < Q_MS_PER_S)
        (void)snprintf(out, out_size, "%llu ms", (unsigned long long)ms);
    else if (minutes == 0)
        (void)snprintf(out, out_size, "%.1f s", (double)ms / Q_MS_PER_S);
    else if (hours == 0)
        (void)snprintf(out, out_size, "%llum %llus", minutes, (unsigned long long)seconds % 60);
    else if (hours < 24)
        (void)snprintf(out, out_size, "%lluh %llum", hours, minutes % 60);
    else
        (void)snprintf(out, out_size, "%llud %lluh", hours / 24, hours % 24);
    return out;
}
