/* The other function of that name, and two that nothing tells apart. */
static __attribute__((noinline)) int type_show(int value)
{
	asm volatile(".skip 40, 0x90");
	return value + 2;
}

static __attribute__((noinline)) int same(int value)
{
	asm volatile("" : "+r"(value));
	return value;
}

int drv_b(int value)
{
	return same(type_show(value)) * 5;
}
