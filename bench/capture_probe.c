/*
 * What bench/capture needs from inside the server: a row trigger that does nothing, the floor that every C trigger pays,
 * and the CPU time of this backend, which the machine's other work disturbs less than the clock.
 */
#include "postgres.h"

#include <time.h>

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(empty_trigger);
PG_FUNCTION_INFO_V1(cpu_us);

Datum
empty_trigger(PG_FUNCTION_ARGS)
{
	return PointerGetDatum(NULL);
}

Datum
cpu_us(PG_FUNCTION_ARGS)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	PG_RETURN_FLOAT8(now.tv_sec * 1e6 + now.tv_nsec / 1e3);
}
