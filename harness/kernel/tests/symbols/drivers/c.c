/* The third file with a function of the other two's names. */
static __attribute__((noinline)) int same(int value)
{
	asm volatile("" : "+r"(value));
	return value;
}

int drv_c(int value)
{
	return same(value) * 7;
}
