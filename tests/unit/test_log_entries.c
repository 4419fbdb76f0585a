#include <criterion/criterion.h>

#include "log/entries.h"
#include "random.h"

enum {
    SUBJECTS = 5,
    ADDED = 20 * 1000
};

static struct ql_entries entries;
static struct random_source source;

/* What was added, by number. */
static struct ql_node known[ADDED + 2];
static uint64_t last[SUBJECTS];
static uint64_t next[SUBJECTS];

static void
begin(void)
{
    ql_entries_init(&entries);
    source.state = 7;
}

static void
end(void)
{
    ql_entries_fini(&entries);
}

TestSuite(log_entries, .init = begin, .fini = end);

static void
add(void)
{
    uint32_t subject = random_below(&source, SUBJECTS);
    if (random_below(&source, 20) == 0) next[subject] += 3; /* a gap */
    struct ql_entry entry = {
        .first_sequence = next[subject],
        .frame = entries.end * 4096,
        .count = 1 + random_below(&source, 4),
    };
    cr_assert_eq(ql_entries_reserve(&entries, 1), Q_OK);
    uint64_t number = ql_entries_add(&entries, last[subject], subject, &entry, entries.end);
    known[number] = (struct ql_node){ .entry = entry, .subject_id = subject };
    last[subject] = number;
    next[subject] = ql_entry_end(&entry);
}

static uint64_t
find_slowly(uint32_t subject, uint64_t sequence)
{
    for (uint64_t number = entries.floor; number < entries.end; number++)
        if (known[number].subject_id == subject && ql_entry_end(&known[number].entry) > sequence)
            return number;
    return 0;
}

Test(log_entries, finds_what_a_list_would_find)
{
    for (unsigned i = 1; i <= ADDED; i++) {
        add();
        if (i % 1500 == 0) ql_entries_drop(&entries, entries.end - random_below(&source, 1400));
        if (i % 50 != 0) continue;
        for (uint32_t subject = 0; subject < SUBJECTS; subject++) {
            uint64_t sequence = random_below(&source, (uint32_t)next[subject] + 2);
            uint64_t number = ql_entries_find(&entries, last[subject], sequence);
            cr_assert_eq(number, find_slowly(subject, sequence));
            if (number == 0) continue;
            const struct ql_node *node = ql_entries_get(&entries, number);
            cr_assert_eq(node->entry.frame, known[number].entry.frame);
            cr_assert_eq(node->subject_id, subject);
        }
    }
}

/* A look-up is a matter of tens of steps, not of as many as there are entries. */
Test(log_entries, jumps_are_long)
{
    uint64_t subject_last = 0;
    for (unsigned i = 0; i < ADDED; i++) {
        struct ql_entry entry = { .first_sequence = i, .count = 1 };
        cr_assert_eq(ql_entries_reserve(&entries, 1), Q_OK);
        subject_last = ql_entries_add(&entries, subject_last, 0, &entry, 0);
    }
    unsigned steps = 0;
    uint64_t number = subject_last;
    while (number > 1) {
        const struct ql_node *node = ql_entries_get(&entries, number);
        cr_assert_eq(node->depth, number - 1);
        number -= node->jump;
        steps++;
    }
    cr_assert_lt(steps, 40);
}

Test(log_entries, chunks_are_given_back)
{
    for (unsigned i = 0; i < ADDED; i++)
        add();
    ql_entries_drop(&entries, entries.end);
    cr_assert_leq(entries.chunk_count, 1);
    for (uint32_t subject = 0; subject < SUBJECTS; subject++) {
        cr_assert_eq(ql_entries_find(&entries, last[subject], 0), 0);
        cr_assert_null(ql_entries_get(&entries, last[subject]));
    }
    add();
}

/* Rows go with the entries that they are of, and chunks with their rows. */
Test(log_entries, rows_of_keys_go_with_their_entries)
{
    struct ql_key_rows rows;
    ql_key_rows_init(&rows);
    enum {
        ENTRIES = 3 * QL_KEY_ROWS_CHUNK
    };
    for (uint64_t number = 1; number <= ENTRIES; number++) {
        cr_assert_eq(ql_key_rows_reserve(&rows, 2), Q_OK);
        ql_key_rows_add(&rows, number * 7, number);
        if (number % 2 == 0) ql_key_rows_add(&rows, number * 9, number);
    }
    cr_assert_eq(rows.end, ENTRIES + ENTRIES / 2);
    for (uint64_t number = 1; number <= ENTRIES; number += 1000) {
        uint64_t row = ql_key_rows_from(&rows, number);
        cr_assert_eq(row, number - 1 + (number - 1) / 2);
    }
    cr_assert_eq(ql_key_rows_from(&rows, ENTRIES + 1), rows.end);
    ql_key_rows_drop(&rows, ENTRIES - 1);
    cr_assert_eq(rows.end - rows.floor, 3);
    cr_assert_leq(rows.chunk_count, 2);
    cr_assert_eq(ql_key_rows_reserve(&rows, 1), Q_OK);
    ql_key_rows_add(&rows, 1, ENTRIES + 1);
    cr_assert_eq(ql_key_rows_from(&rows, ENTRIES + 1), rows.end - 1);
    ql_key_rows_drop(&rows, ENTRIES + 2);
    cr_assert_eq(rows.end, rows.floor);
    ql_key_rows_fini(&rows);
}
