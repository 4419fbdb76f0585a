#include "work.h"

struct work
store_work(unsigned number)
{
    (void)number;
    return (struct work){ 0 };
}
