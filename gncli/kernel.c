/* gncli_kernel: what numpy would take several passes for, in one. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/ndarrayobject.h>
#include <numpy/ufuncobject.h>

#include <float.h>

/* A build that fails is one that uses numpy. */
#if defined(__FAST_MATH__) || FLT_EVAL_METHOD != 0
#error "float64 is not rounded at every step here"
#endif

static void
deviate(char **args, const npy_intp *dimensions, const npy_intp *steps, void *Py_UNUSED(data))
{
    const char *x = args[0], *c = args[1];
    char *out = args[2];
    for (npy_intp i = 0; i < dimensions[0]; i++, x += steps[0], c += steps[1], out += steps[2]) {
        *(double *)out = (double)*(const float *)x - *(const double *)c;
    }
}

static PyUFuncGenericFunction deviate_loops[] = {deviate};
static const char deviate_types[] = {NPY_FLOAT, NPY_DOUBLE, NPY_DOUBLE};

static int
execute(PyObject *module)
{
    if (PyArray_ImportNumPyAPI() < 0 || PyUFunc_ImportUFuncAPI() < 0) {
        return -1;
    }
    PyObject *ufunc = PyUFunc_FromFuncAndData(
        deviate_loops, NULL, deviate_types, 1, 2, 1, PyUFunc_None, "deviate", "x - c, in float64", 0);
    int status = PyModule_AddObjectRef(module, "deviate", ufunc);
    Py_XDECREF(ufunc);
    return status;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_mod_gil  /* 3.13: or else a Python without a GIL gets one, and says so */
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "gncli_kernel", .m_slots = slots};

PyMODINIT_FUNC
PyInit_gncli_kernel(void)
{
    return PyModuleDef_Init(&definition);
}
