/*
 * plant.c: switch on the defect that QL_PLANT in the environment names. For programs of the test
 * build; see storage/src/planted.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "planted.h"

enum ql_plant ql_plant = QL_PLANT_none;

static void __attribute__((constructor)) plant(void)
{
    static const char *const names[] = { "none",
#define PLANT_NAME(name, what) #name,
                                         QL_PLANT_LIST(PLANT_NAME)
#undef PLANT_NAME
    };
    const char *wanted = getenv("QL_PLANT");
    for (unsigned i = 0; wanted != NULL && i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], wanted) == 0) ql_plant = (enum ql_plant)i;
    if (wanted == NULL || strcmp(wanted, "none") == 0 || ql_plant != QL_PLANT_none) return;
    (void)fprintf(stderr, "QL_PLANT=%s: there is no such defect\n", wanted);
    exit(2);
}
